"""The numeric gate fails when any one number, unit, n, interval, id or table cell changes, and only then."""

import json
import math

import pytest
from gate_toys import toy_card, toy_reference, toy_run
from hypothesis import given
from hypothesis import strategies as st

from companion.errors import CompanionError
from companion.press.card import Tolerance
from companion.press.gate_numbers import compare_metrics, numbers_gate
from companion.press.gates import within

TOLERANCES = toy_card().tolerances


def gate(tmp_path, **changes):
    return numbers_gate(toy_reference(tmp_path), toy_run(tmp_path / "run", **changes).path, TOLERANCES, "toy")


def metric(value, unit="%", n=100, ci=(1.0, 2.0)):
    return {"value": value, "unit": unit, "n": n, "ci": list(ci) if ci else None}


def test_an_unchanged_run_passes(tmp_path):
    report = gate(tmp_path)
    assert report.passed and len(report.rows) == 3 and report.lines() == []


def test_a_change_within_the_metrics_tolerance_passes(tmp_path):
    assert gate(tmp_path, asr=97.45).passed


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"asr": 97.51}, "asr.plain"),
        ({"extra": [("new.metric", 1.0)]}, "new.metric"),
        ({"row": ("strip", 3.6)}, "tables/rates/rate, row 1"),
        ({"row": ("other", 3.5)}, "tables/rates/defence, row 1"),
    ],
)
def test_one_change_fails_and_is_named(tmp_path, changes, named):
    report = gate(tmp_path, **changes)
    assert not report.passed
    assert named in "\n".join(report.lines()) and "DIFFERS" in "\n".join(report.lines())


def test_the_table_shows_reference_now_difference_and_tolerance(tmp_path):
    line = next(line for line in gate(tmp_path, asr=96.0).lines() if line.startswith("asr.plain "))
    assert line.split() == ["asr.plain", "97", "96", "-1", "0.5", "DIFFERS"]


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ({"a": metric(5.0, unit="s")}, "a (unit)"),
        ({"a": metric(5.0, n=101)}, "a (n)"),
        ({"a": metric(5.0, ci=None)}, "a (interval)"),
        ({"a": metric(5.0, ci=(1.0, 2.1))}, "a (interval, high)"),
        ({"a": metric(None)}, "a"),
        ({"a": metric(math.nan)}, "a"),
        ({"a": metric(math.inf)}, "a"),
        ({}, "a"),
        ({"a": metric(5.0), "b": metric(1.0)}, "b"),
    ],
)
def test_every_part_of_a_metric_counts(now, named):
    rows = compare_metrics({"a": metric(5.0)}, now, TOLERANCES)
    assert [row.what for row in rows if not row.ok] == [named]


def test_the_first_matching_tolerance_wins():
    wide_first = [Tolerance("asr.*", 1.0, 0.0), Tolerance("*", 0.0, 0.0)]
    for tolerances, ok in ((wide_first, True), (wide_first[::-1], False), ([], False)):
        (row,) = compare_metrics({"asr.x": metric(5.0)}, {"asr.x": metric(5.5)}, tolerances)
        assert row.ok is ok


@given(st.floats(-1e6, 1e6), st.floats(0, 10), st.floats(0, 0.1), st.floats(0, 0.999), st.sampled_from([-1, 1]))
def test_within_is_absolute_plus_relative(reference, absolute, relative, share, sign):
    allowed = absolute + relative * abs(reference)
    tolerance = Tolerance("*", absolute, relative)
    if allowed > 1e-6:  # else rounding decides
        assert within(reference, reference + sign * share * allowed, tolerance)
    assert not within(reference, reference + sign * (1.01 * allowed + 1e-6), tolerance)


def test_a_missing_reference_says_how_to_make_it(tmp_path):
    run = toy_run(tmp_path / "run")
    with pytest.raises(CompanionError, match=r"no reference.*results\.json.*companion reference toy"):
        numbers_gate(tmp_path / "nothing", run.path, TOLERANCES, "toy")


def test_a_damaged_reference_is_named(tmp_path):
    reference = toy_reference(tmp_path)
    (reference / "results.json").write_text('{"metrics": {')
    with pytest.raises(CompanionError, match=r"results\.json cannot be read.*Restore it from git"):
        numbers_gate(reference, reference, TOLERANCES, "toy")


def test_missing_and_new_tables_columns_and_rows_fail(tmp_path):
    reference, run = toy_reference(tmp_path), toy_run(tmp_path / "run").path
    table = run / "tables" / "rates.csv"
    for text, named in (
        ("defence,share\nstrip,3.5\nnone,9.0\n", "columns"),
        ("defence,rate\nstrip,3.5\n", "rows"),
    ):
        table.write_text(text)
        report = numbers_gate(reference, run, TOLERANCES, "toy")
        assert [row.what for row in report.failures] == [f"tables/rates ({named})"]
    results = json.loads((run / "results.json").read_text())
    results["tables"]["other"] = results["tables"].pop("rates")
    (run / "results.json").write_text(json.dumps(results))
    assert {row.what for row in numbers_gate(reference, run, TOLERANCES, "toy").failures} == {
        "tables/rates",
        "tables/other",
    }
