"""Average precision: the loop everybody writes, the mean over all orders of ties by enumeration, counts of curves."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.errors import CompanionError
from companion.hashing.codes import pack
from companion.hashing.retrieval import average_precisions, expected_average_precisions, hits_at, relevance


def usual(relevant: list[bool], top: int) -> float:
    """AP as the field's code has it, over a ranking's relevance."""
    found, total = 0, 0.0
    for rank, hit in enumerate(relevant[:top], 1):
        if hit:
            found += 1
            total += found / rank
    return total / found if found else 0.0


def toy(seed: int, queries: int = 4, size: int = 40, bits: int = 8, classes: int = 3):
    draw = np.random.default_rng(seed)
    return (
        draw.random((queries, bits)) < 0.5,
        draw.random((size, bits)) < 0.5,
        draw.integers(classes, size=queries),
        draw.integers(classes, size=size),
    )


@pytest.mark.parametrize("top", [1, 7, 40, 100])
def test_order_equals_the_loop_over_a_stable_argsort(top):
    left, right, query_labels, labels = toy(0)
    found = average_precisions(pack(left), pack(right), query_labels, labels, top, "order")
    for q in range(4):
        order = np.argsort((left[q] != right).sum(1), kind="stable")
        assert found[q] == pytest.approx(usual(list(labels[order] == query_labels[q]), top))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=3), st.integers(1, 7))
def test_expected_is_the_mean_over_all_orders_within_ties(groups, top):
    """Each group of ties: (relevant items, others)."""
    size = sum(map(sum, groups))
    if not 1 <= size <= 7:
        return
    top = min(top, size)
    rankings = [[]]
    for hits, others in groups:
        rankings = [r + list(order) for r in rankings for order in permutations([True] * hits + [False] * others)]
    expected = np.mean([usual(ranking, top) for ranking in rankings])
    counts, relevant = (np.array([[f(g) for g in groups]]) for f in (sum, lambda g: g[0]))
    assert expected_average_precisions(counts, relevant, top)[0] == pytest.approx(expected)


def test_expected_is_what_shuffled_databases_give_on_average():
    left, right, query_labels, labels = toy(1, size=60)
    draw = np.random.default_rng(0)
    shuffled = []
    for _ in range(400):
        order = draw.permutation(60)
        shuffled.append(average_precisions(pack(left), pack(right[order]), query_labels, labels[order], 20, "order"))
    found = average_precisions(pack(left), pack(right), query_labels, labels, 20)
    error = np.std(shuffled, axis=0) / 20
    assert (np.abs(np.mean(shuffled, axis=0) - found) < 4 * error + 1e-9).all()


def test_without_ties_both_rules_agree():
    right = np.tril(np.ones((8, 8), dtype=bool))  # distances 1 to 8 from the zero code
    labels = np.array([0, 1, 0, 0, 1, 1, 0, 1])
    query = np.zeros((1, 8), dtype=bool)
    for top in (1, 3, 8):
        both = [
            average_precisions(pack(query), pack(right), [0], labels, top, ties)[0] for ties in ("order", "expected")
        ]
        assert both[0] == pytest.approx(both[1])


def test_class_order_flatters_or_hurts_under_a_stable_sort_only():
    labels = np.repeat([0, 1], 20)
    right = np.zeros((40, 8), dtype=bool)  # everything ties
    query = np.zeros((2, 8), dtype=bool)
    stable = average_precisions(pack(query), pack(right), [0, 1], labels, 20, "order")
    assert stable.tolist() == [1, 0]
    expected = average_precisions(pack(query), pack(right), [0, 1], labels, 20, "expected")
    assert expected[0] == pytest.approx(expected[1]) and 0.4 < expected[0] < 0.7


def test_a_query_that_finds_nothing_counts_zero():
    found = average_precisions(pack(np.zeros((1, 8))), pack(np.ones((3, 8))), [5], [1, 2, 3], 3)
    assert found.tolist() == [0]


def test_several_labels_are_relevant_if_one_is_shared():
    queries, database = np.array([[1, 0, 1], [0, 0, 0]], bool), np.array([[0, 1, 0], [0, 1, 1], [1, 0, 0]], bool)
    assert relevance(queries, database).tolist() == [[False, True, True], [False, False, False]]
    codes = pack(np.tril(np.ones((8, 8)))[:3])
    for ties in ("order", "expected"):
        found = average_precisions(pack(np.zeros((2, 8))), codes, queries, database, 3, ties)
        assert found.tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2, 0])


def test_parts_of_many_queries_join(monkeypatch):
    left, right, query_labels, labels = toy(2, queries=9)
    whole = [average_precisions(pack(left), pack(right), query_labels, labels, 10, t) for t in ("order", "expected")]
    monkeypatch.setattr("companion.hashing.retrieval.CHUNK", 100)
    parts = [average_precisions(pack(left), pack(right), query_labels, labels, 10, t) for t in ("order", "expected")]
    assert np.array_equal(whole, parts)


def test_hits_at_ranks_by_hand():
    right = np.tril(np.ones((8, 8), dtype=bool))
    labels = np.array([0, 1, 0, 0, 1, 1, 0, 1])
    hits, total = hits_at(pack(np.zeros((1, 8))), pack(right), np.array([0]), labels, [1, 3, 8])
    assert hits.tolist() == [[1, 2, 4]] and total.tolist() == [4]


def test_wrong_searches_are_named():
    left, right, query_labels, labels = toy(0)
    with pytest.raises(CompanionError, match="the database of a search"):
        average_precisions(pack(left), pack(right)[:0], query_labels, labels[:0], 5)
    with pytest.raises(CompanionError, match="expected one label"):
        average_precisions(pack(left), pack(right), query_labels[:2], labels, 5)
    with pytest.raises(CompanionError, match="ties 'random'"):
        average_precisions(pack(left), pack(right), query_labels, labels, 5, "random")
