"""How good a ranking by Hamming distance is: average precision among the top K under two rules for ties, and curves.

Average precision as the code of this field has it: the mean of the precision at the ranks of the relevant items within
the top K, divided by the number of relevant items *found* there; 0 for a query that finds none. Integer distances tie
in large groups, so a rule for ties is part of the metric: "order" keeps the order of the database, "expected" takes the
mean over all orders within ties, exactly, from counts alone (in the manner of McSherry and Najork, ECIR 2008).
"""

import numpy as np
from scipy.special import gammaln

from companion.errors import CompanionError
from companion.hashing.codes import check_searchable, hamming_distances, nearest, within

TIES = ("order", "expected")
CHUNK = 2**25  # distances held at once, 32 MB


def average_precisions(
    queries: np.ndarray,
    database: np.ndarray,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    top: int,
    ties: str = "expected",
) -> np.ndarray:
    """Return the average precision (Q,) in [0, 1] of every query among its `top` nearest codes.

    queries, database: packed codes (Q, bytes) and (N, bytes); labels: (Q,) and (N,) whole numbers, or truth values
    (Q, C) and (N, C) where a pair is relevant if it shares a label; top: K, cut to N; ties: one of TIES.
    The order of the database matters to "order": shuffle it once, or ties follow the classes.
    Raises CompanionError for an empty database, codes of different lengths, labels that do not fit, and other values.
    """
    check_searchable(queries, database)
    query_labels, database_labels = np.asarray(query_labels), np.asarray(database_labels)
    if len(query_labels) != len(queries) or len(database_labels) != len(database):
        raise CompanionError(
            f"{len(queries)} queries with {len(query_labels)} labels and {len(database)} codes with "
            f"{len(database_labels)}: expected one label, or one row of labels, a code."
        )
    if ties not in TIES or top < 1:
        raise CompanionError(f"ties {ties!r} among the top {top}: expected one of {', '.join(TIES)} and top >= 1.")
    top = min(top, len(database))
    rows = max(1, CHUNK // len(database))
    database_labels = _compact(database_labels)
    found = []
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        distances = hamming_distances(queries[part], database)
        score = _ordered if ties == "order" else _expected
        found.append(score(distances, query_labels[part], database_labels, top, 8 * queries.shape[1]))
    return np.concatenate(found)


def mean_average_precision(
    queries: np.ndarray,
    database: np.ndarray,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    top: int,
    ties: str = "expected",
) -> float:
    """Return the mean of `average_precisions` over the queries."""
    return float(average_precisions(queries, database, query_labels, database_labels, top, ties).mean())


def hits_at(
    queries: np.ndarray, database: np.ndarray, query_labels: np.ndarray, database_labels: np.ndarray, ranks: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many relevant items the first k have for every k of `ranks`, (Q, len(ranks)), and in all, (Q,).

    Ties keep the order of the database. Precision at k is the first divided by k, recall the first by the second.
    """
    check_searchable(queries, database)
    rows = max(1, CHUNK // len(database))
    within, total = [], []
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        relevant = relevance(query_labels[part], database_labels)
        order = nearest(hamming_distances(queries[part], database), max(ranks))
        hits = np.take_along_axis(relevant, order, axis=1).cumsum(1)
        within.append(hits[:, np.asarray(ranks) - 1])
        total.append(relevant.sum(1))
    return np.concatenate(within), np.concatenate(total)


def relevance(query_labels: np.ndarray, database_labels: np.ndarray) -> np.ndarray:
    """Return which pairs share a label, (Q, N) bool; labels are (Q,) and (N,), or truth values (Q, C) and (N, C)."""
    query_labels, database_labels = np.asarray(query_labels), np.asarray(database_labels)
    if query_labels.ndim == 1:
        return query_labels[:, None] == database_labels
    return query_labels.astype(np.float32) @ database_labels.astype(np.float32).T > 0


def _compact(labels: np.ndarray) -> np.ndarray:
    """Return class numbers in as few bytes as they need, which makes comparing a hundred thousand of them cheap."""
    if labels.ndim == 1 and labels.min() >= 0 and labels.max() < 256:
        return labels.astype(np.uint8)
    return labels


def _ordered(distances, query_labels, database_labels, top, bits) -> np.ndarray:
    order = nearest(distances, top)  # (Q, top)
    if database_labels.ndim == 1:
        relevant = database_labels[order] == query_labels[:, None]
    else:
        relevant = (database_labels[order] & query_labels[:, None].astype(bool)).any(-1)
    hits = relevant.cumsum(1)
    precisions = (hits / np.arange(1, top + 1) * relevant).sum(1)
    return precisions / np.maximum(hits[:, -1], 1)


def _expected(distances, query_labels, database_labels, top, bits) -> np.ndarray:
    counts = np.empty((len(distances), 2, bits + 1), dtype=np.int64)
    for row, label, count in zip(distances, query_labels, counts, strict=True):
        near = within(row, top)  # groups behind the top's last do not matter
        close = row[near]
        count[0] = np.bincount(close, minlength=bits + 1)
        count[1] = np.bincount(close[relevance(label[None], database_labels[near])[0]], minlength=bits + 1)
    return expected_average_precisions(counts[:, 0], counts[:, 1], top)


def expected_average_precisions(counts: np.ndarray, relevant: np.ndarray, top: int) -> np.ndarray:
    """Return the average precision among the first `top`, averaged over all orders within ties, (Q,).

    counts, relevant: (Q, G) whole numbers, how many items and how many relevant ones lie in each group of ties, nearest
    group first; top: 1 to the number of items. A group of n items, r of them relevant, that follows N items with R
    relevant ones adds, in the mean, sum_i (r / n) (R + 1 + (i - 1)(r - 1) / (n - 1)) / (N + i); the group that the top
    cuts has a hypergeometric number of relevant items inside.
    """
    ends = counts.cumsum(1)
    before, hits_before = ends - counts, relevant.cumsum(1) - relevant  # N, R
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, top + 1))])
    whole = ends <= top
    spread = np.where(whole, harmonic[np.minimum(ends, top)] - harmonic[np.minimum(before, top)], 0)
    added = _group_sum(counts, relevant, before, hits_before, spread)
    total = np.where(whole, added, 0).sum(1)  # (Q,)
    cut = np.minimum(whole.sum(1), counts.shape[1] - 1)  # the group that the top cuts, or ends with
    rows = np.arange(len(counts))
    room = np.where(whole.all(1), 0, top - before[rows, cut])  # places left for it
    found = np.where(whole, relevant, 0).sum(1)  # R before it
    return _with_cut_group(total, found, counts[rows, cut], relevant[rows, cut], before[rows, cut], room, harmonic)


def _group_sum(count, hits, before, hits_before, spread):
    """Return the expected sum of precisions at the relevant places of a group; `spread` is H(N + n) - H(N)."""
    share = hits / np.maximum(count, 1)
    steps = (hits - 1) / np.maximum(count - 1, 1)
    return share * ((hits_before + 1) * spread + steps * (count - (before + 1) * spread))


def _with_cut_group(total, found, count, hits, before, room, harmonic) -> np.ndarray:
    """Return E[(total + sum of the cut group) / (found + X)] over X, the relevant items among its first `room`."""
    x = np.arange(int(min(room.max(), hits.max())) + 1)[None]  # (1, M)
    count, hits, before, room, total, found = (part[:, None] for part in (count, hits, before, room, total, found))
    possible = (x <= hits) & (x <= room) & (room - x <= count - hits)
    chance = np.where(
        possible,
        _choose(hits, x, possible) + _choose(count - hits, room - x, possible) - _choose(count, room, room <= count),
        -np.inf,
    )
    spread = harmonic[np.minimum(before + room, len(harmonic) - 1)] - harmonic[np.minimum(before, len(harmonic) - 1)]
    added = _group_sum(room, x, before, found, spread)
    values = np.where(found + x > 0, (total + added) / np.maximum(found + x, 1), 0)
    return (np.exp(chance) * values).sum(1)


def _choose(n, k, valid):
    """Return the logarithm of n over k where `valid`, and something finite elsewhere."""
    n, k = np.where(valid, n, 1), np.where(valid, k, 0)
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
