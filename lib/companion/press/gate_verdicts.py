"""The verdict gate: the verdict of each claim, and the outcome of each of its parts, against the reference's."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from companion.press.card import Card
from companion.press.claims import Verdict, check_card
from companion.press.gates import Report, Row, compare_exactly, missing_and_new, read_json

_WORDS = {True: "holds", False: "does not hold", None: "undecided"}


def verdicts_gate(reference: Path, card: Card, verdicts: Sequence[Verdict], known_metrics: Collection[str]) -> Report:
    """Hold today's `verdicts` against verdicts.json of the folder `reference`.

    known_metrics: every metric id that some run of the chapter produces; a claim that reads another one fails here,
    because it could never be tested.
    """
    then = read_json(reference / "verdicts.json", card.slug)
    rows = compare_verdicts(then, verdicts_json(verdicts))
    rows += [Row(problem, "", "unknown metric", False) for problem in check_card(card, known_metrics)]
    return Report("verdicts", tuple(rows) or (Row("claims", "none", "none", True),))


def compare_verdicts(reference: Mapping[str, Mapping], now: Mapping[str, Mapping]) -> list[Row]:
    """Return a row for each claim's status, and a failing one for each part that turned out differently in a seed."""
    rows = missing_and_new("claim ", reference, now)
    for claim in reference:
        if claim not in now:
            continue
        then, today = reference[claim], now[claim]
        rows.append(compare_exactly(f"claim {claim}", then["status"], today["status"]))
        rows += missing_and_new(f"claim {claim}, test ", then["parts"], today["parts"])
        for part, outcomes in then["parts"].items():
            for seed, passed in outcomes.items():
                found = today["parts"].get(part, outcomes).get(seed)
                row = compare_exactly(f"claim {claim}, test {part}, seed {seed}", _WORDS[passed], _WORDS[found])
                rows += [] if row.ok else [row]
    return rows


def verdicts_json(verdicts: Sequence[Verdict]) -> dict[str, dict]:
    """Return what verdicts.json keeps: {claim: {status, parts: {name: {seed: holds}}}}."""
    return {verdict.claim: verdict.as_json() for verdict in verdicts}
