"""Time Hamming search and its evaluation against the field's usual NumPy code and against faiss.

    uv pip install --target build/faiss faiss-cpu --no-deps
    PYTHONPATH=build/faiss .venv/bin/python benchmarks/hamming_search.py [--codes 100000] [--queries 100] [--bits 64]

faiss is no dependency of the book; the first line puts it beside, and without it only the NumPy rows are printed.
First mAP@1,000: the usual evaluation multiplies codes of -1 and 1, sorts all distances with argsort and counts; a
fairer one sorts our packed distances with a stable argsort (NumPy's radix sort for bytes). Ours must give the usual
one's value where its sort is stable. Then the ranking alone beside faiss.IndexBinaryFlat, whose distances must be ours.
Printed: best of several rounds in processor time on one thread.
"""

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import numpy as np

from companion.hashing.codes import hamming_distances, nearest, pack, unpack
from companion.hashing.retrieval import mean_average_precision

TOP = 1000
CLASSES = 10


def clustered_codes(count: int, bits: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return codes (count, bits) of truth values around the centre of their class, and labels."""
    centres = np.random.default_rng(0).random((CLASSES, bits)) < 0.5
    labels = draw.integers(CLASSES, size=count)
    return centres[labels] ^ (draw.random((count, bits)) < 0.33), labels


def usual(queries: np.ndarray, database: np.ndarray, query_labels: np.ndarray, labels: np.ndarray, kind: str) -> float:
    """mAP@TOP as hashing repositories compute it, from codes of -1 and 1, a query at a time."""
    total = 0.0
    for code, label in zip(queries, query_labels, strict=True):
        distances = 0.5 * (queries.shape[1] - code @ database.T)
        total += precision(labels[np.argsort(distances, kind=kind)[:TOP]] == label)
    return total / len(queries)


def packed_argsort(queries: np.ndarray, database: np.ndarray, query_labels: np.ndarray, labels: np.ndarray) -> float:
    """The same from packed codes: popcount distances in single bytes, all of them sorted."""
    total = 0.0
    for row, label in zip(hamming_distances(queries, database), query_labels, strict=True):
        total += precision(labels[np.argsort(row, kind="stable")[:TOP]] == label)
    return total / len(queries)


def precision(relevant: np.ndarray) -> float:
    ranks = np.flatnonzero(relevant) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).mean()) if len(ranks) else 0.0


def best(call, rounds: int) -> tuple[object, float]:
    """Return what `call` returns and its processor seconds, the best of several rounds."""
    seconds = []
    for _ in range(rounds):
        begin = time.process_time()
        found = call()
        seconds.append(time.process_time() - begin)
    return found, min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codes", type=int, default=100_000, help="in the database (default: 100,000)")
    parser.add_argument("--queries", type=int, default=100, help="(default: 100)")
    parser.add_argument("--bits", type=int, default=64, help="a multiple of 8 (default: 64)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts (default: 3)")
    options = parser.parse_args()
    draw = np.random.default_rng(1)
    database, labels = clustered_codes(options.codes, options.bits, draw)
    queries, query_labels = clustered_codes(options.queries, options.bits, draw)
    packed = pack(queries), pack(database)
    signs = 2.0 * queries - 1, 2.0 * database - 1  # float64, as NumPy makes them
    assert (unpack(packed[1]) == database).all()
    truth = (query_labels, labels)
    ways = {
        "usual: matmul, argsort": lambda: usual(*signs, *truth, "quicksort"),
        "usual, stable sort": lambda: usual(*signs, *truth, "stable"),
        "popcount, stable argsort of bytes": lambda: packed_argsort(*packed, *truth),
        "ours, ties in order": lambda: mean_average_precision(*packed, *truth, TOP, "order"),
        "ours, ties expected": lambda: mean_average_precision(*packed, *truth, TOP, "expected"),
    }
    print(f"mAP@{TOP:,} of {options.queries} queries among {options.codes:,} codes of {options.bits} bits")
    print(f"{'way':<36} {'mAP':>8} {'seconds':>9} {'usual / this':>13}")
    results = {name: best(way, options.rounds) for name, way in ways.items()}
    first = results["usual: matmul, argsort"][1]
    for name, (value, took) in results.items():
        print(f"{name:<36} {value:8.5f} {took:9.3f} {first / took:13.1f}")
    assert abs(results["usual, stable sort"][0] - results["ours, ties in order"][0]) < 1e-12

    print(f"\nranking alone, the nearest {TOP:,}")
    (distances, order), took = best(lambda: search(*packed), options.rounds)
    print(f"{'ours: popcount, counting':<36} {'':8} {took:9.3f}")
    expected = np.argsort((queries[:3, None] != database).sum(2), axis=1, kind="stable")[:, :TOP]
    assert (order[:3] == expected).all(), "equal to brute force"
    try:
        import faiss
    except ImportError as error:
        raise SystemExit(f"{error}: install faiss beside the book, as this file's first lines say.") from None
    faiss.omp_set_num_threads(1)
    index = faiss.IndexBinaryFlat(options.bits)
    index.add(packed[1])
    for heap in (True, False):
        index.use_heap = heap
        (theirs, _), seconds = best(lambda: index.search(packed[0], TOP), options.rounds)
        name = f"faiss.IndexBinaryFlat, {'heap' if heap else 'counting'}"
        print(f"{name:<36} {'':8} {seconds:9.3f}   ours takes {took / seconds:.1f} times as long")
        assert (np.sort(theirs, axis=1) == distances).all(), "the same distances"


def search(queries: np.ndarray, database: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and positions (Q, TOP) of the nearest codes."""
    distances = hamming_distances(queries, database)
    order = nearest(distances, TOP)
    return np.take_along_axis(distances, order, axis=1), order


if __name__ == "__main__":
    main()
