"""Sample correlation against a double loop, its invariances, and its errors."""

import math

import pytest
import torch

from companion.errors import CompanionError
from companion.ownership.correlation import correlation, correlation_distance
from companion.seeding import generator


def outputs(rows=6, columns=4, seed=0):
    return torch.randn(rows, columns, generator=generator(seed, "outputs"))


def by_loops(found, kind):
    matrix = torch.zeros(len(found), len(found), dtype=torch.float64)
    for i, a in enumerate(found.double()):
        for j, b in enumerate(found.double()):
            if kind == "cosine":
                matrix[i, j] = 1 - sum(x * y for x, y in zip(a, b, strict=True)) / (a.norm() * b.norm())
            else:
                matrix[i, j] = math.exp(-float(((a / a.norm() - b / b.norm()) ** 2).sum()))
    return matrix


@pytest.mark.parametrize("kind", ["cosine", "rbf"])
def test_matrix_equals_a_double_loop(kind):
    torch.testing.assert_close(correlation(outputs(), kind), by_loops(outputs(), kind), rtol=0, atol=1e-12)


def test_distance_equals_a_double_loop():
    a, b = correlation(outputs(seed=0)), correlation(outputs(columns=7, seed=1))
    total = sum(abs(float(a[i, j]) - float(b[i, j])) for i in range(6) for j in range(6))
    assert correlation_distance(a, b) == pytest.approx(total / 36, abs=1e-14)


@pytest.mark.parametrize("kind", ["cosine", "rbf"])
def test_scale_and_rotation_of_the_output_space_do_not_matter(kind):
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator(0, "turn")).double())
    turned = (outputs().double() @ turn * 3.7).float()
    assert correlation_distance(correlation(outputs(), kind), correlation(turned, kind)) < 1e-6


def test_the_order_of_samples_and_identity():
    matrix = correlation(outputs())
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    torch.testing.assert_close(correlation(outputs()[order]), matrix[order][:, order])
    assert correlation_distance(matrix, matrix) == 0
    assert (matrix.diagonal() == 0).all() and torch.equal(matrix, matrix.T)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.ones(1, 4), "1 query samples.*at least 2"),
        (torch.ones(5, 4), "zero variance.*5 samples"),
        (torch.ones(5), "expected \\(N, K\\)"),
        (torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), "not finite"),
    ],
)
def test_outputs_without_a_correlation_are_refused(bad, message):
    with pytest.raises(CompanionError, match=message):
        correlation(bad)


def test_other_errors():
    with pytest.raises(CompanionError, match=r"unknown correlation 'pearson'.*cosine, rbf"):
        correlation(outputs(), "pearson")
    with pytest.raises(CompanionError, match=r"\(6, 6\) and \(5, 5\).*same query samples"):
        correlation_distance(correlation(outputs()), correlation(outputs(rows=5)))


def test_an_output_of_zeros_is_unlike_every_other_sample():
    found = correlation(torch.tensor([[1.0, 2.0], [0.0, 0.0], [2.0, 4.0]]))
    torch.testing.assert_close(found, torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.float64))
