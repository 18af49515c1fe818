"""Verdicts: whether a paper's claim held, over seeds, and the numbers that decided it."""

import difflib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from companion.errors import CompanionError
from companion.press.card import Card, Claim
from companion.press.expressions import Expression, Outcome, evaluate, parse_expression
from companion.statistics import Interval, wilson

STATUSES = ("held", "partly", "failed", "not tested")


@dataclass(frozen=True)
class Evidence:
    """What one run says: `metrics` as in results.json, and where the run comes from.

    origin: "fresh" (its key is today's), "recorded" (committed, and its key is today's) or "stale" (committed, made
    from other sources; `reasons` says which).
    """

    seed: int
    origin: str
    metrics: Mapping[str, Mapping]
    reasons: tuple[str, ...] = ()
    record: Mapping = field(default_factory=dict)

    def number(self, metric: str) -> float | None:
        """Return the value of `metric`, or None where this run has no number for it."""
        value = self.metrics.get(metric, {}).get("value")
        usable = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
        return float(value) if usable else None


@dataclass(frozen=True)
class SeedOutcome:
    """One part of a claim in one seed: `passed` is None where it cannot be decided, and `why` says why.

    values: the metrics that the part reads; margin: distance inside the boundary (negative: outside), in the metric's
    unit, None for equalities.
    """

    seed: int
    origin: str
    passed: bool | None
    values: Mapping[str, float]
    margin: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Part:
    """One test of a claim, with its outcome in each seed."""

    name: str
    expression: str
    outcomes: tuple[SeedOutcome, ...]

    @property
    def seeds(self) -> int:
        """The number of seeds in which this part could be decided."""
        return sum(outcome.passed is not None for outcome in self.outcomes)

    @property
    def passed(self) -> int:
        """The number of seeds in which this part held."""
        return sum(outcome.passed is True for outcome in self.outcomes)


@dataclass(frozen=True)
class Verdict:
    """What came of a claim.

    status: one of STATUSES; seeds: the seeds that count (every part decided); passed: in how many of them the whole
    claim held; interval: Wilson's for that share, None without seeds; parts: the tests with the values behind them;
    why: the reason of "not tested".
    """

    claim: str
    status: str
    seeds: tuple[int, ...]
    passed: int
    interval: Interval | None
    parts: tuple[Part, ...]
    why: str = ""

    @property
    def origins(self) -> dict[int, str]:
        """Return {seed: "fresh" | "recorded" | "stale"} of every run that was looked at."""
        return {outcome.seed: outcome.origin for part in self.parts for outcome in part.outcomes}

    def as_json(self) -> dict:
        """Return the verdict as the references keep it: the status, and each part's outcome by seed."""
        parts = {part.name: {str(o.seed): o.passed for o in part.outcomes} for part in self.parts}
        return {"status": self.status, "parts": parts}


def as_evidence(run) -> Evidence:
    """Return the evidence of a finished run or of a recorded run (which knows whether it is stale)."""
    if isinstance(run, Evidence):
        return run
    origin = "fresh" if not hasattr(run, "stale") else "stale" if run.stale else "recorded"
    reasons = tuple(getattr(run, "reasons", ()))
    return Evidence(int(run.results["seed"]), origin, run.results["metrics"], reasons, run.record)


def evidence(runs: Iterable) -> list[Evidence]:
    """Return one piece of evidence a seed, by seed; a fresh run stands before a recorded one of the same seed.

    >>> evidence([Evidence(1, "stale", {}), Evidence(1, "fresh", {})])[0].origin
    'fresh'
    """
    rank = {"fresh": 0, "recorded": 1, "stale": 2}
    found = sorted(map(as_evidence, runs), key=lambda one: (one.seed, rank[one.origin]))
    return list({one.seed: one for one in reversed(found)}.values())[::-1]


def claim_expressions(claim: Claim, source: str = "") -> list[tuple[str, Expression]]:
    """Return the (name, checked expression) of each test of a claim.

    `source` says where the claim stands (the path of paper.yml). Raises CompanionError for an expression outside the
    grammar, for one that reads `tolerance` where the claim gives none, and for two tests of one name.
    """
    found: dict[str, Expression] = {}
    for test in claim.tests:
        where = f"{source + ', ' if source else ''}claim {claim.id}, test {test.name!r}"
        if test.name in found:
            raise CompanionError(f"{where}: the name stands twice; expected different names for the tests of a claim.")
        found[test.name] = parse_expression(test.expression, where)
        if found[test.name].uses_tolerance and claim.tolerance is None:
            raise CompanionError(f"{where}: {test.expression!r} reads tolerance, but the claim gives none. Add one.")
    return list(found.items())


def verdict(claim: Claim, runs: Iterable) -> Verdict:
    """Return the verdict of `claim` over `runs`, one run a seed.

    runs: finished and recorded runs (of companion.press.runs), or Evidence.
    A claim held when every part holds in every seed; it failed when no part holds in more than half of the seeds;
    anything between is partly. It is not tested with fewer than `minimum_seeds` seeds in which every part is decided.
    """
    found = evidence(runs)
    parts = []
    for name, expression in claim_expressions(claim):
        outcomes = tuple(_outcome(expression, one, claim.tolerance) for one in found)
        parts.append(Part(name, expression.text, outcomes))
    table = [[part.outcomes[i].passed for part in parts] for i in range(len(found))]  # (seeds, parts)
    counted = [i for i, row in enumerate(table) if parts and None not in row]
    passed = sum(all(table[i]) for i in counted)
    interval = wilson(passed, len(counted)) if counted else None
    seeds = tuple(found[i].seed for i in counted)
    why = _why_not_tested(claim, parts, len(counted))
    status = "not tested" if why else _status([table[i] for i in counted])
    return Verdict(claim.id, status, seeds, passed, interval, tuple(parts), why)


def _status(table: Sequence[Sequence[bool]]) -> str:
    """Return the status of a (seeds, parts) table of outcomes."""
    if all(map(all, table)):
        return "held"
    most = max(sum(column) for column in zip(*table, strict=True))
    return "partly" if 2 * most > len(table) else "failed"


def _outcome(expression: Expression, run: Evidence, tolerance: float | None) -> SeedOutcome:
    numbers = {metric: run.number(metric) for metric in expression.metrics}
    values = {metric: value for metric, value in numbers.items() if value is not None}
    if missing := [metric for metric in numbers if metric not in values]:
        return SeedOutcome(run.seed, run.origin, None, values, why=f"no number for {', '.join(missing)}")
    try:
        outcome: Outcome = evaluate(expression, values, tolerance)
    except (ArithmeticError, ValueError) as error:
        return SeedOutcome(run.seed, run.origin, None, values, why=f"{expression.text}: {error}")
    return SeedOutcome(run.seed, run.origin, outcome.passed, values, outcome.margin)


def _why_not_tested(claim: Claim, parts: Sequence[Part], counted: int) -> str:
    if not parts:
        return claim.why_not or "the card gives no test"
    if counted >= claim.minimum_seeds:
        return ""
    undecided = dict.fromkeys(outcome.why for part in parts for outcome in part.outcomes if outcome.passed is None)
    return "; ".join([f"{counted} of the {claim.minimum_seeds} seeds it needs", *undecided])


def verdicts(card: Card, runs: Iterable) -> list[Verdict]:
    """Return the verdict of each claim of `card`, in the card's order."""
    runs = evidence(runs)
    return [verdict(claim, runs) for claim in card.claims]


def check_card(card: Card, known_metrics: Collection[str], source: str = "") -> list[str]:
    """Return one line for each metric id in the card's claims that no run produces, with ids that look like it.

    Raises CompanionError for an expression that cannot be used. Without this check a slip in an id would show a claim
    as "not tested" for ever.
    """
    problems = []
    for claim in card.claims:
        for name, expression in claim_expressions(claim, source):
            for metric in expression.metrics:
                if metric not in known_metrics:
                    near = difflib.get_close_matches(metric, sorted(known_metrics), n=3, cutoff=0.6)
                    hint = f"did you mean {' or '.join(near)}?" if near else "no metric has a similar id"
                    problems.append(f"claim {claim.id}, test {name!r}: no run produces the metric {metric}; {hint}")
    return problems
