"""Shares of a split are disjoint, complete, balanced, and the same everywhere."""

import hashlib

import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.data.manifest import Split
from companion.data.splits import share_indices

labels = st.lists(st.integers(0, 4), max_size=60).map(lambda values: torch.tensor(values, dtype=torch.int64))


@given(labels, st.floats(0.01, 0.99), st.integers(0, 3), st.sampled_from([1, 3, 5]))
def test_touching_shares_are_disjoint_and_leave_nothing_out(labels, cut, seed, block):
    first = share_indices(labels, Split(of="train", share=(0.0, cut), seed=seed, block=block)).tolist()
    second = share_indices(labels, Split(of="train", share=(cut, 1.0), seed=seed, block=block)).tolist()
    assert sorted(first + second) == list(range(len(labels)))
    assert first == sorted(first) and second == sorted(second)


@given(labels, st.floats(0.01, 0.99))
def test_every_class_keeps_its_proportion(labels, cut):
    chosen = labels[share_indices(labels, Split(of="train", share=(0.0, cut)))]
    for label in labels.unique():
        assert abs((chosen == label).sum() - cut * (labels == label).sum()) <= 0.5 + 1e-6


def test_the_rule_is_the_documented_one():
    """An independent implementation for one class, so that another program can repeat the split."""
    order = sorted(range(10), key=lambda k: hashlib.sha256(f"7/0/{k}".encode()).hexdigest())
    share = Split(of="train", share=(0.2, 0.5), seed=7)
    assert share_indices(torch.zeros(10, dtype=torch.int64), share).tolist() == sorted(order[2:5])


def test_blocks_stay_together():
    labels = torch.arange(4).repeat_interleave(20)
    chosen = share_indices(labels, Split(of="train", share=(0.0, 0.5), block=5))
    assert (chosen.reshape(-1, 5) == chosen.reshape(-1, 5)[:, :1] + torch.arange(5)).all()
    assert (chosen.reshape(-1, 5)[:, 0] % 5 == 0).all() and len(chosen) == 40


def test_another_seed_gives_another_share():
    labels = torch.zeros(100, dtype=torch.int64)
    shares = {tuple(share_indices(labels, Split(of="a", share=(0.0, 0.5), seed=seed)).tolist()) for seed in range(5)}
    assert len(shares) == 5
