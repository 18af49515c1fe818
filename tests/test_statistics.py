import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.errors import CompanionError
from companion.seeding import generator
from companion.statistics import Proportion, bootstrap, wilson


def wilson_by_hand(successes, n, z=1.959963984540054):
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return centre - half, centre + half


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_newcombe_1998_table_1(successes, n, low, high):
    interval = wilson(successes, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_the_formula_and_holds_the_share(counts):
    interval = wilson(*counts)
    low, high = wilson_by_hand(*counts)
    assert (interval.low, interval.high) == pytest.approx((max(low, 0), min(high, 1)), abs=1e-9)
    assert 0 <= interval.low <= Proportion(*counts).rate + 1e-12
    assert Proportion(*counts).rate - 1e-12 <= interval.high <= 1


def test_a_higher_level_gives_a_wider_interval():
    narrow, wide = Proportion(7, 10).interval(0.8), Proportion(7, 10).interval(0.99)
    assert wide.low < narrow.low < 0.7 < narrow.high < wide.high
    assert (wide.level, wide.method) == (0.99, "wilson")


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_an_impossible_proportion_is_refused(successes, n):
    with pytest.raises(CompanionError, match=f"{successes} successes in {n} trials"):
        Proportion(successes, n)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_outside_0_and_1_is_refused(level):
    with pytest.raises(CompanionError, match="confidence level"):
        wilson(1, 2, level)


def test_bootstrap_of_a_mean_is_near_the_normal_interval():
    values = torch.randn(400, generator=generator(0, "values"), dtype=torch.float64) * 3 + 5
    interval = bootstrap(values, generator(0, "bootstrap"), resamples=8000)
    half = 1.96 * values.std().item() / 20
    assert interval.low == pytest.approx(values.mean().item() - half, abs=0.03)
    assert interval.high == pytest.approx(values.mean().item() + half, abs=0.03)


def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says():
    covered = 0
    for trial in range(200):
        values = torch.rand(40, generator=generator(trial, "values"))
        interval = bootstrap(values, generator(trial, "bootstrap"), level=0.9, resamples=500)
        covered += interval.low <= 0.5 <= interval.high
    assert 165 <= covered <= 195  # 0.9 of 200 less the known shortfall at n = 40; 4 sigma is 17


def test_bootstrap_depends_on_the_generator_alone():
    values = [1.0, 2.0, 4.0, 8.0]
    state = torch.random.get_rng_state()
    first, again = (bootstrap(values, generator(3, "b"), statistic=np.median) for _ in range(2))
    assert first == again
    assert first != bootstrap(values, generator(4, "b"), resamples=50)
    assert torch.equal(state, torch.random.get_rng_state())


def test_bootstrap_of_many_values_is_drawn_in_parts(monkeypatch):
    values = torch.rand(50, generator=generator(0, "values"))
    whole = bootstrap(values, generator(0, "b"), resamples=100)
    monkeypatch.setattr("companion.statistics.BOOTSTRAP_CELLS", 350)  # 7 rows at once
    assert bootstrap(values, generator(0, "b"), resamples=100) == whole


def test_bootstrap_of_equal_values_has_no_width():
    interval = bootstrap([0.25] * 9, generator(0, "b"))
    assert interval.low == interval.high == 0.25


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0, 2.0]]])
def test_bootstrap_refuses_what_is_not_a_list_of_finite_numbers(values):
    with pytest.raises(CompanionError, match="expected \\(n,\\) finite numbers"):
        bootstrap(values, generator(0, "b"))
