"""ITQ, LSH, protocols and the quality of codes."""

import numpy as np
import pytest
import torch

from companion.errors import CompanionError
from companion.hashing import classical, quality
from companion.hashing.protocols import PROTOCOLS, Protocol, assign, protocol
from companion.seeding import generator


def features(count: int = 200, width: int = 16) -> torch.Tensor:
    return torch.randn(count, width, generator=generator(0)) * torch.linspace(0.2, 2, width) + 3


def test_itq_turns_pca_directions_without_bending_them_and_lowers_the_error():
    values = features()
    found = classical.itq(values, 8, generator(1))
    assert torch.allclose(found.projection.T @ found.projection, torch.eye(8).double(), atol=1e-8)
    centred = values.double() - found.mean
    top = torch.linalg.svd(centred, full_matrices=False).Vh[:8]
    assert torch.allclose(top.T @ (top @ found.projection), found.projection, atol=1e-8), "in the span of PCA"

    def error(hash_):
        projected = centred @ hash_.projection
        return float((projected.sign() - projected).square().sum())

    assert error(found) < error(classical.itq(values, 8, generator(1), iterations=0))


def test_itq_needs_as_many_directions_as_bits():
    with pytest.raises(CompanionError, match="PCA has 16 directions"):
        classical.itq(features(), 24, generator(0))
    with pytest.raises(CompanionError, match="12 bits"):
        classical.lsh(features(), 12, generator(0))


def test_random_hyperplanes_see_angles():
    """The chance that a bit differs is the angle over pi (Charikar, 2002)."""
    values = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [-2, -1, 0, 0]])
    codes = classical.lsh(values - values.mean(0), 4096, generator(0)).codes(values - values.mean(0))
    centred = values - values.mean(0)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        angle = torch.arccos(torch.cosine_similarity(centred[i], centred[j], dim=0))
        assert float((codes[i] != codes[j]).double().mean()) == pytest.approx(float(angle) / np.pi, abs=0.03)


LABELS = torch.arange(300) % 3


@pytest.mark.parametrize("database", ["rest", "unseen", "train"])
def test_roles_have_their_counts_and_queries_stay_apart(database):
    roles = assign(LABELS, Protocol(10, 30, database), generator(0))
    expected = {"rest": 270, "unseen": 180, "train": 90}[database]
    assert [len(roles.queries), len(roles.train), len(roles.database)] == [30, 90, expected]
    queries, train, found = (set(part.tolist()) for part in (roles.queries, roles.train, roles.database))
    assert not queries & train and not queries & found
    assert train <= found if database != "unseen" else not train & found
    assert LABELS[roles.queries].bincount().tolist() == [10] * 3
    assert not torch.equal(LABELS[roles.database], LABELS[roles.database].sort().values), "ties follow no classes"


def test_training_images_of_one_protocol_are_no_queries_of_another():
    small, large = (assign(LABELS, Protocol(q, t, "rest"), generator(0)) for q, t in ((5, 20), (40, 60)))
    assert not set(small.train.tolist()) & set(large.queries.tolist())


def test_the_literatures_protocols_by_name():
    labels = torch.arange(60000) % 10
    sizes = {}
    for name in PROTOCOLS:
        roles = assign(labels, protocol(name), generator(0))
        sizes[name] = (len(roles.queries), len(roles.train), len(roles.database))
    assert sizes["cifar10"] == (1000, 5000, 54000)
    assert sizes["cifar10-1"] == (1000, 5000, 59000)
    assert sizes["cifar10-2"] == (10000, 50000, 50000)
    limited = assign(labels, protocol("cifar10"), generator(0), limit=7)
    assert len(limited.database) == 70
    with pytest.raises(CompanionError, match="no protocol 'cifar10-3'"):
        protocol("cifar10-3")


def test_too_few_images_and_an_empty_database_are_named():
    with pytest.raises(CompanionError, match="class 0 has 100 images"):
        assign(LABELS, Protocol(50, 60, "rest"), generator(0))
    with pytest.raises(CompanionError, match="the database is empty"):
        assign(LABELS, Protocol(40, 60, "unseen"), generator(0))


def test_quality_by_hand():
    codes = torch.tensor([[1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)
    assert quality.bit_imbalance(codes) == pytest.approx(1 / 3)
    assert quality.bit_correlation(codes) == pytest.approx(2 / 6)
    assert quality.different_codes(codes) == 2


def test_auc_counts_pairs():
    labels = torch.tensor([[0, 0, 1], [0, 1, 1]])
    scores = torch.rand(2, 3, 3, generator=generator(0))
    wins = ties = 0.0
    pairs = [(k, a, b) for k in range(2) for a in range(3) for b in range(3) if a != b]
    same = [p for p in pairs if labels[p[0], p[1]] == labels[p[0], p[2]]]
    other = [p for p in pairs if labels[p[0], p[1]] != labels[p[0], p[2]]]
    for s in same:
        for o in other:
            wins += float(scores[s] > scores[o])
            ties += float(scores[s] == scores[o])
    expected = (wins + ties / 2) / (len(same) * len(other))
    assert quality.same_class_auc(scores, labels) == pytest.approx(expected)
    assert quality.same_class_auc(torch.ones(2, 3, 3), labels) == 0.5
    with pytest.raises(CompanionError, match="expected some of each"):
        quality.same_class_auc(scores, torch.zeros(2, 3, dtype=torch.int64))


def test_neighbours_and_precision_by_cosine():
    database, labels = torch.tensor([[1.0, 0], [0, 1], [1, 0.2]]), torch.tensor([0, 1, 1])
    queries, query_labels = torch.tensor([[2.0, 0.1], [0, 3]]), torch.tensor([0, 1])
    assert quality.nearest_neighbour_accuracy(queries, query_labels, database, labels) == (2, 2)
    found = quality.cosine_average_precision(queries, query_labels, database, labels, 3)
    assert found.tolist() == pytest.approx([1, (1 + 1) / 2])
