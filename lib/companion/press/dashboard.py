"""The status page: every run that the book knows, its age, duration, device and state, for people and machines."""

import json
from pathlib import Path
from typing import Any

from companion.press.badges import COLOURS, badge, verdict_badge
from companion.press.check import read_gates
from companion.press.claims import STATUSES
from companion.press.edition import Chapter, Edition
from companion.press.ledger import counts
from companion.press.markup import render


def rows(edition: Edition) -> list[dict[str, Any]]:
    """Return one row a run: fresh and recorded ones of every profile, then seeds that failed or are missing."""
    found = []
    for chapter in edition.chapters.values():
        for profile in chapter.card.profiles if chapter.card else ():
            fresh = chapter.runs.get(profile, ())
            found += [_row(chapter, profile, run.record, "fresh") for run in fresh]
            for run in chapter.recorded.get(profile, ()):
                state = "stale" if run.stale else "recorded"
                found.append(_row(chapter, profile, run.record, state, list(run.reasons)))
        found += [_without_run(edition, chapter, seed) for seed in _missing(edition, chapter)]
        if chapter.error:
            found.append(_empty(chapter, edition.profile, None, "failed", [chapter.error]))
    return found


def _row(chapter: Chapter, profile: str, record: dict, state: str, reasons: list[str] | None = None) -> dict[str, Any]:
    kept = ("seed", "started", "wall_seconds", "peak_memory_mb", "device", "cpu", "portable", "commit", "dirty", "key")
    row = {"chapter": chapter.slug, "title": chapter.title, "profile": profile, "state": state}
    return row | {"reasons": reasons or []} | {name: record.get(name) for name in kept}


def _empty(chapter: Chapter, profile: str, seed: int | None, state: str, reasons: list[str]) -> dict[str, Any]:
    return _row(chapter, profile, {"seed": seed}, state, reasons)


def _missing(edition: Edition, chapter: Chapter) -> list[int]:
    have = {run.seed for run in chapter.runs.get(edition.profile, ())}
    return [seed for seed in edition.seeds(chapter) if seed not in have]


def _without_run(edition: Edition, chapter: Chapter, seed: int) -> dict[str, Any]:
    failure = next((one for one in chapter.failures if one["seed"] == seed), None)
    if failure is None:
        return _empty(chapter, edition.profile, seed, "missing", ["no fresh run"])
    row = _empty(chapter, edition.profile, seed, "failed", [f"{failure['kind']}: {failure['message']}"])
    return row | {"started": failure["when"], "key": failure["key"]}


def gates(edition: Edition, chapter: Chapter) -> dict[str, Any] | None:
    """Return what the last `companion check` found of today's sources of a chapter, or None if it was not checked."""
    return read_gates(edition.project, chapter.card) if chapter.card else None


def status_html(edition: Edition) -> str:
    """Return the table of all runs."""
    every = rows(edition)
    checks = {slug: gates(edition, chapter) for slug, chapter in edition.chapters.items()}
    return render("status.html.j2", rows=every, checks=checks, edition=edition, repository=edition.repository)


def badge_names(edition: Edition) -> list[tuple[str, str]]:
    """Return (file name, what it says in words) of every badge."""
    return [("claims.svg", "verdicts of all chapters"), ("runs.svg", "state of the runs")] + [
        (f"{slug}.svg", f"verdicts of {chapter.title}") for slug, chapter in edition.chapters.items()
    ]


def badges_html(edition: Edition) -> str:
    """Return the badges of the book with the addresses they have in it."""
    return render("badges.html.j2", badges=badge_names(edition))


def write_status(edition: Edition, folder: Path, printed: str) -> None:
    """Write status.json and badges/*.svg into the folder of the printed book; printed: the moment, ISO, UTC."""
    every = rows(edition)
    content = {
        "printed": printed,
        "profile": edition.profile,
        "claims": {slug: _claims(chapter) for slug, chapter in edition.chapters.items()},
        "gates": {slug: gates(edition, chapter) for slug, chapter in edition.chapters.items()},
        "runs": every,
    }
    (folder / "status.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "badges").mkdir(exist_ok=True)
    total = dict.fromkeys(STATUSES, 0)
    for slug, chapter in edition.chapters.items():
        found = counts(chapter.verdicts.get(edition.profile, ()))
        total = {status: total[status] + found[status] for status in total}
        (folder / "badges" / f"{slug}.svg").write_text(verdict_badge(slug, found), encoding="utf-8")
    (folder / "badges" / "claims.svg").write_text(verdict_badge("claims", total), encoding="utf-8")
    failed = sum(row["state"] in ("failed", "missing") for row in every)
    said = f"{failed} failed or missing" if failed else "all there"
    runs = badge("runs", said, COLOURS["failed" if failed else "held"])
    (folder / "badges" / "runs.svg").write_text(runs, encoding="utf-8")


def _claims(chapter: Chapter) -> dict[str, Any]:
    return {
        profile: {
            verdict.claim: {
                "status": verdict.status,
                "seeds": list(verdict.seeds),
                "passed": verdict.passed,
                "interval": [verdict.interval.low, verdict.interval.high] if verdict.interval else None,
                "why": verdict.why,
            }
            for verdict in verdicts
        }
        for profile, verdicts in chapter.verdicts.items()
    }
