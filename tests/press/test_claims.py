"""Verdicts over seeds: the four outcomes, their interval, and where each number comes from."""

import math
from itertools import product
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.errors import CompanionError
from companion.press.card import Claim, ClaimTest
from companion.press.claims import Evidence, check_card, evidence, verdict, verdicts
from companion.press.runs import Recorded, Run
from companion.statistics import wilson


def claim(*expressions: str, tolerance=0.0, minimum_seeds=1, why_not=None) -> Claim:
    tests = tuple(ClaimTest(f"part {i}", text) for i, text in enumerate(expressions))
    return Claim("stealth", "a statement", "abstract", None, tests, tolerance, minimum_seeds, why_not)


def run(seed: int, origin: str = "fresh", **metrics) -> Evidence:
    return Evidence(seed, origin, {name.replace("__", "."): {"value": value} for name, value in metrics.items()})


def outcomes(*rows: tuple[bool, ...]) -> list[Evidence]:
    """One run a row; metric m<i> is 1 where part i shall hold."""
    return [run(seed, **{f"m{i}": float(value) for i, value in enumerate(row)}) for seed, row in enumerate(rows)]


def test_held_needs_every_part_in_every_seed():
    found = verdict(claim("m0 > 0", "m1 > 0", minimum_seeds=3), outcomes((1, 1), (1, 1), (1, 1)))
    assert (found.status, found.seeds, found.passed) == ("held", (0, 1, 2), 3)
    assert found.interval == wilson(3, 3)


def test_one_seed_short_of_all_is_partly():
    found = verdict(claim("m0 > 0", "m1 > 0"), outcomes((1, 1), (1, 1), (1, 0)))
    assert (found.status, found.passed, found.interval) == ("partly", 2, wilson(2, 3))
    assert [(part.passed, part.seeds) for part in found.parts] == [(3, 3), (2, 3)]


def test_failed_when_no_part_holds_in_more_than_half():
    found = verdict(claim("m0 > 0", "m1 > 0"), outcomes((1, 0), (0, 1)))
    assert (found.status, found.passed, found.interval) == ("failed", 0, wilson(0, 2))


@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_the_status_follows_its_definition(parts, seeds, data):
    row = st.tuples(*[st.booleans()] * parts)
    table = data.draw(st.lists(row, min_size=seeds, max_size=seeds))
    found = verdict(claim(*[f"m{i} > 0" for i in range(parts)]), outcomes(*table))
    shares = [sum(column) / seeds for column in zip(*table, strict=True)]
    expected = "held" if min(shares) == 1 else "failed" if max(shares) <= 0.5 else "partly"
    assert found.status == expected and found.passed == sum(map(all, table))


def test_too_few_seeds_is_not_tested_and_says_how_many_it_needs():
    found = verdict(claim("m0 > 0", minimum_seeds=3), outcomes((1,), (1,)))
    assert found.status == "not tested" and found.seeds == (0, 1) and found.passed == 2
    assert "2 of the 3 seeds" in found.why


def test_a_claim_without_tests_gives_its_reason():
    found = verdict(claim(why_not="ABS arrives later"), outcomes((1,)))
    assert (found.status, found.why, found.interval, found.parts) == ("not tested", "ABS arrives later", None, ())


@pytest.mark.parametrize("value", [None, math.nan, "97", True])
def test_what_is_no_number_counts_as_missing(value):
    found = verdict(claim("a > 0", "b > 0"), [run(0, a=1, b=value), run(1, a=1, b=1)])
    assert found.seeds == (1,) and found.status == "held"
    assert found.parts[1].outcomes[0].passed is None and "no number for b" in found.parts[1].outcomes[0].why
    assert found.parts[0].outcomes[0].passed is True  # shown, though the seed does not count


def test_a_division_by_zero_is_undecided_with_its_reason():
    found = verdict(claim("a / b > 1"), [run(0, a=1, b=0)])
    assert found.status == "not tested" and "division" in found.why


def test_the_values_behind_a_part_and_its_margin_are_kept():
    found = verdict(
        claim("asr__belt >= asr__plain - tolerance".replace("__", "."), tolerance=2.0),
        [run(0, asr__belt=97.0, asr__plain=98.5)],
    )
    outcome = found.parts[0].outcomes[0]
    assert outcome.values == {"asr.belt": 97.0, "asr.plain": 98.5} and outcome.margin == pytest.approx(0.5)


def test_fresh_recorded_and_stale_runs_are_told_apart():
    def results(seed):
        return {"seed": seed, "metrics": {"a": {"value": 1.0}}}

    runs = [
        Recorded(2, results(2), {}, True, ("lib/companion/metrics.py changed",)),
        Run(None, {}, results(0)),
        Recorded(1, results(1), {}, False, ()),
        Recorded(0, results(0), {}, True, ("old",)),
    ]
    assert verdict(claim("a > 0"), runs).origins == {0: "fresh", 1: "recorded", 2: "stale"}
    assert [one.reasons for one in evidence(runs)] == [(), (), ("lib/companion/metrics.py changed",)]


def test_each_seed_counts_once_whatever_the_order():
    for first, second in product(["fresh", "recorded", "stale"], repeat=2):
        kept = evidence([run(4, first, a=1), run(4, second, a=2), run(3, "stale", a=3)])
        assert [one.seed for one in kept] == [3, 4]
        assert kept[1].origin == min(first, second)  # fresh < recorded < stale, in the alphabet too


def test_as_json_keeps_status_and_outcomes():
    found = verdict(claim("m0 > 0", minimum_seeds=3), outcomes((0,)))
    assert found.as_json() == {"status": "not tested", "parts": {"part 0": {"0": False}}}


def test_a_mistyped_metric_is_reported_with_near_matches():
    card = SimpleNamespace(claims=(claim("asr.badnet.plain > 95", "accuracy.belt > 0"),))
    (problem,) = check_card(card, {"asr.badnets.plain", "accuracy.belt"})
    assert "claim stealth" in problem and "asr.badnet.plain" in problem and "mean asr.badnets.plain" in problem


def test_errors_name_claim_test_and_file():
    bad = claim("asr.plain > open('x')")
    with pytest.raises(CompanionError, match=r"notebooks/belt/paper.yml, claim stealth, test 'part 0'.*column 13"):
        check_card(SimpleNamespace(claims=(bad,)), set(), "notebooks/belt/paper.yml")
    twice = Claim("a", "s", "w", None, (ClaimTest("x", "b > 0"), ClaimTest("x", "c > 0")), 0.0, 1, None)
    with pytest.raises(CompanionError, match="stands twice"):
        verdict(twice, [])


def test_a_tolerance_that_is_read_must_be_given():
    with pytest.raises(CompanionError, match="reads tolerance, but the claim gives none"):
        verdict(claim("a > b - tolerance", tolerance=None), [])
    assert verdict(claim("a > 0", tolerance=None), [run(0, a=1)]).status == "held"


def test_verdicts_follow_the_cards_order():
    card = SimpleNamespace(claims=(claim("m0 > 0"), claim("m0 < 0")))
    assert [found.status for found in verdicts(card, iter(outcomes((1,))))] == ["held", "failed"]
