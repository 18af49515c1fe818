"""The numeric gate: metrics and tables of a run against the reference's, under the card's tolerances."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from companion.press.card import Tolerance
from companion.press.gates import (
    Report,
    Row,
    compare_exactly,
    compare_numbers,
    missing_and_new,
    read_json,
    tolerance_for,
)


def numbers_gate(reference: Path, run: Path, tolerances: Sequence[Tolerance], slug: str) -> Report:
    """Hold the metrics and tables of the folder `run` against those of the folder `reference`.

    tolerances: the card's; the first whose pattern matches wins. A metric is matched by its id, a column of a table
    by `tables/<name>/<column>`. Missing and new metrics, tables, columns and rows are differences, and so are another
    unit, n, or text.
    """
    then, now = read_json(reference / "results.json", slug), read_json(run / "results.json", slug)
    rows = compare_metrics(then["metrics"], now["metrics"], tolerances)
    rows += missing_and_new("tables/", then["tables"], now["tables"])
    for name in then["tables"]:
        if name in now["tables"]:
            files = [folder / side["tables"][name]["file"] for folder, side in ((reference, then), (run, now))]
            rows += _compare_tables(f"tables/{name}", *files, tolerances)
    return Report("numbers", tuple(rows))


def compare_metrics(
    reference: Mapping[str, Mapping], now: Mapping[str, Mapping], tolerances: Sequence[Tolerance]
) -> list[Row]:
    """Return a row for each metric's value, and further rows where unit, n or interval differ."""
    rows = []
    for metric, then in reference.items():
        if metric not in now:
            continue
        today, tolerance = now[metric], tolerance_for(metric, tolerances)
        rows.append(_compare(metric, then["value"], today["value"], tolerance))
        details = [compare_exactly(f"{metric} ({key})", then.get(key), today.get(key)) for key in ("unit", "n")]
        details += _compare_intervals(metric, then.get("ci"), today.get("ci"), tolerance)
        rows += [row for row in details if not row.ok]
    return rows + missing_and_new("", reference, now)


def _compare(what: str, reference: object, now: object, tolerance: Tolerance) -> Row:
    """Compare two values: as numbers where both are, else exactly."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in (reference, now)):
        return compare_numbers(what, reference, now, tolerance)
    return compare_exactly(what, reference, now)


def _compare_intervals(metric: str, reference: object, now: object, tolerance: Tolerance) -> list[Row]:
    if not reference or not now:
        return [compare_exactly(f"{metric} (interval)", reference, now)]
    sides = zip(("low", "high"), reference, now, strict=True)
    return [_compare(f"{metric} (interval, {side})", then, today, tolerance) for side, then, today in sides]


def _compare_tables(what: str, reference: Path, now: Path, tolerances: Sequence[Tolerance]) -> list[Row]:
    """Compare two CSV files cell by cell; a table without any difference is one row."""
    (head, *then), (head_now, *today) = _read(reference), _read(now)
    if head != head_now:
        return [compare_exactly(f"{what} (columns)", ", ".join(head), ", ".join(head_now))]
    if len(then) != len(today):
        return [compare_exactly(f"{what} (rows)", len(then), len(today))]
    rows = []
    for number, lines in enumerate(zip(then, today, strict=True), 1):
        for column, a, b in zip(head, *lines, strict=True):
            tolerance = tolerance_for(f"{what}/{column}", tolerances)
            rows.append(_compare(f"{what}/{column}, row {number}", _value(a), _value(b), tolerance))
    return [row for row in rows if not row.ok] or [Row(what, f"{len(then)} rows", f"{len(today)} rows", True)]


def _read(path: Path) -> list[list[str]]:
    if not path.is_file():
        return [[f"({path.name} is missing)"]]
    with path.open(newline="") as file:
        return list(csv.reader(file)) or [[]]


def _value(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
