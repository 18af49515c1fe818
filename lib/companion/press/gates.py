"""What the gates share: a row a comparison, a report a gate, and how both are printed and kept.

A gate holds the folder of a run against the folder of a reference (results/smoke/<slug>), which has the same layout:
results.json, arrays/<name>.npz, figures/<name>.png, tables/<name>.csv, chapter.ipynb; and verdicts.json.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from companion.errors import CompanionError
from companion.press.card import Tolerance

GATES = ("numbers", "figures", "text", "verdicts")
DEFAULT = Tolerance("(default)", absolute=1e-9, relative=1e-6)


@dataclass(frozen=True)
class Row:
    """One comparison: `what` was compared, how it reads in the reference and now, and whether that is accepted."""

    what: str
    reference: str
    now: str
    ok: bool
    difference: str = ""
    tolerance: str = ""


@dataclass(frozen=True)
class Report:
    """What one gate found in one chapter; `details` are longer texts, such as a difference in a cell's output."""

    gate: str
    rows: tuple[Row, ...]
    details: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[Row, ...]:
        """The comparisons that are not accepted."""
        return tuple(row for row in self.rows if not row.ok)

    @property
    def passed(self) -> bool:
        """Whether something was compared and all of it is accepted: a gate that looked at nothing did not pass."""
        return bool(self.rows) and not self.failures

    def summary(self) -> str:
        """Return one line: how much was compared and how much of it differs."""
        if not self.rows:
            return "nothing to compare"
        return f"{len(self.rows)} compared, " + (f"{len(self.failures)} differ" if self.failures else "all as expected")

    def lines(self) -> list[str]:
        """Return the readable difference: a table of the failures, then the details."""
        return [*table(self.failures), *self.details] if self.failures or self.details else []

    def as_json(self) -> dict:
        """Return what the status page shows."""
        differences = [asdict(row) for row in self.failures]
        return {"passed": self.passed, "compared": len(self.rows), "differences": differences, "details": self.details}


def tolerance_for(name: str, tolerances: Sequence[Tolerance]) -> Tolerance:
    """Return the first tolerance whose pattern matches `name`, else the default (a relative 1e-6).

    >>> tolerance_for("asr.plain", [Tolerance("asr.*", 0.5, 0.0), Tolerance("*", 0.0, 0.0)]).absolute
    0.5
    """
    return next((one for one in tolerances if fnmatchcase(name, one.pattern)), DEFAULT)


def within(reference: float, now: float, tolerance: Tolerance) -> bool:
    """Return whether |now - reference| <= absolute + relative * |reference|; NaN equals NaN, an infinity itself."""
    if math.isnan(reference) or math.isnan(now):
        return math.isnan(reference) and math.isnan(now)
    if math.isinf(reference) or math.isinf(now):
        return reference == now
    return abs(now - reference) <= tolerance.absolute + tolerance.relative * abs(reference)


def compare_numbers(what: str, reference: float, now: float, tolerance: Tolerance) -> Row:
    """Return the row that compares two numbers."""
    difference = now - reference
    shown = "" if difference == 0 else f"{difference:+.3g}"
    allowed = " + ".join(
        text
        for text, used in [
            (f"{tolerance.absolute:g}", tolerance.absolute or not tolerance.relative),
            (f"{tolerance.relative:g} relative", tolerance.relative),
        ]
        if used
    )
    return Row(what, f"{reference:.10g}", f"{now:.10g}", within(reference, now, tolerance), shown, allowed)


def compare_exactly(what: str, reference: object, now: object) -> Row:
    """Return the row that compares two values of any kind for equality."""
    return Row(what, str(reference), str(now), reference == now, "", "exact")


def missing_and_new(kind: str, reference: Iterable[str], now: Iterable[str]) -> list[Row]:
    """Return a failing row for each name that only one side has."""
    reference, now = list(reference), list(now)
    gone = [Row(f"{kind}{name}", "present", "missing", False) for name in reference if name not in now]
    return gone + [Row(f"{kind}{name}", "missing", "new", False) for name in now if name not in reference]


def table(rows: Sequence[Row], marks: bool = True) -> list[str]:
    """Return the rows as an aligned plain-text table, the same in a terminal and in a log.

    marks: end each line with "ok" or "DIFFERS"; without them the tolerance is left out too.
    """
    if not rows:
        return []
    last = 6 if marks else 4
    head = ("", "reference", "now", "difference", "tolerance", "")
    cells = [(r.what, r.reference, r.now, r.difference, r.tolerance, "ok" if r.ok else "DIFFERS") for r in rows]
    cells = [tuple(_short(text) for text in line[:last]) for line in [head, *cells]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    aligned = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in cells]
    return ["  ".join(line).rstrip() for line in aligned]


def _short(text: str, longest: int = 60) -> str:
    text = text.replace("\n", " / ")
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def read_json(path: Path, slug: str) -> dict:
    """Return the content of a reference's JSON file; raise CompanionError that says how to make or mend it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise no_reference(path, slug) from None
    except (OSError, ValueError) as error:  # a damaged file
        raise unreadable(path, slug, error) from None


def unreadable(path: Path, slug: str, error: Exception) -> CompanionError:
    """Return the error for a damaged file of a reference."""
    return CompanionError(f"{path} cannot be read: {error}. Restore it from git, or {make(slug)}.")


def no_reference(path: Path, slug: str) -> CompanionError:
    """Return the error for a chapter whose reference, or a file of it, does not exist yet."""
    return CompanionError(
        f"chapter {slug} has no reference to be held against: {path} does not exist. To make it, {make(slug)}; "
        "look at the numbers it prints, and commit the folder."
    )


def make(slug: str) -> str:
    """Return the words that tell how a reference is made."""
    return f"run `companion reference {slug}`"
