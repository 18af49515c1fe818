"""Verdicts as readers see them: what a badge, a claim's box and the ledger's rows say."""

from collections import Counter
from dataclasses import dataclass

from companion.press.card import EVIDENCE, Claim
from companion.press.claims import STATUSES, SeedOutcome, Verdict
from companion.press.edition import Chapter, Edition
from companion.press.markup import number, render

RANK = {"failed": 0, "partly": 1, "held": 2, "not tested": 3}
"""Order in which the ledger sorts verdicts: what failed stands first."""


@dataclass(frozen=True)
class Cell:
    """One claim at one profile: its verdict and the sentence about its seeds."""

    profile: str
    verdict: Verdict

    @property
    def said(self) -> str:
        return seeds_said(self.verdict)


def counts(verdicts: tuple[Verdict, ...]) -> dict[str, int]:
    """Return how many claims have each status, in the order of `STATUSES`."""
    found = Counter(verdict.status for verdict in verdicts)
    return {status: found[status] for status in STATUSES}


def counts_said(verdicts: tuple[Verdict, ...]) -> str:
    """Return such as "4 held, 1 partly, 1 not tested"."""
    return ", ".join(f"{n} {status}" for status, n in counts(verdicts).items() if n) or "no claims"


def seeds_said(verdict: Verdict) -> str:
    """Return in how many seeds a claim held, with the interval of that share; nothing if it is not tested."""
    if verdict.status == "not tested":
        return ""
    low, high = (round(100 * end) for end in (verdict.interval.low, verdict.interval.high))
    noun = "seed" if len(verdict.seeds) == 1 else "seeds"
    return f"{verdict.passed} of {len(verdict.seeds)} {noun} ({low}–{high} %)"


def outcome_said(outcome: SeedOutcome) -> str:
    """Return what a part of a claim came to in one seed: yes, no or undecided, with the numbers it read."""
    word = {True: "yes", False: "no", None: "undecided"}[outcome.passed]
    values = ", ".join(f"{metric} = {number(value)}" for metric, value in outcome.values.items())
    return f"{word}: {outcome.why or values}" if outcome.why or values else word


def seeds_by_origin(edition: Edition, chapter: Chapter, profile: str) -> dict[str, list[int]]:
    """Return the seeds of a profile by where they come from: fresh, recorded or stale."""
    seeds: dict[str, list[int]] = {"fresh": [run.seed for run in chapter.runs.get(profile, ())]}
    for run in chapter.recorded.get(profile, ()):
        if run.seed not in seeds["fresh"]:
            seeds.setdefault("stale" if run.stale else "recorded", []).append(run.seed)
    return {origin: found for origin, found in seeds.items() if found}


def claim_cells(edition: Edition, chapter: Chapter, claim: Claim) -> list[Cell]:
    """Return the verdicts on a claim, the printed profile's first."""
    return [
        Cell(profile, verdict)
        for profile in edition.profiles
        for verdict in chapter.verdicts.get(profile, ())
        if verdict.claim == claim.id
    ]


def badge_html(edition: Edition, chapter: Chapter, root: str) -> str:
    """Return the box on top of a chapter: how many claims held, at which profile, over which seeds."""
    verdicts = chapter.verdicts.get(edition.profile, ())
    return render(
        "badge.html.j2",
        root=root,
        edition=edition,
        chapter=chapter,
        counts=counts(verdicts),
        total=len(verdicts),
        origins=seeds_by_origin(edition, chapter, edition.profile),
        others={name: counts_said(chapter.verdicts[name]) for name in edition.profiles[1:] if name in chapter.verdicts},
    )


def claims_html(edition: Edition, chapter: Chapter) -> str:
    """Return the claims of a chapter with their verdicts, each with its parts and the numbers of each seed folded."""
    rows = [(claim, claim_cells(edition, chapter, claim)) for claim in chapter.card.claims]
    return render("claims.html.j2", rows=rows, EVIDENCE=EVIDENCE, outcome_said=outcome_said, slug=chapter.slug)


def ledger_html(edition: Edition) -> str:
    """Return the sortable table of every claim of every paper."""
    rows = []
    for paper in edition.papers:
        chapter = edition.chapters.get(paper.slug)
        for claim in chapter.card.claims if chapter and chapter.card else ():
            cells = {cell.profile: cell for cell in claim_cells(edition, chapter, claim)}
            rows.append({"paper": paper, "chapter": chapter, "claim": claim, "cells": cells})
        if not (chapter and chapter.card):
            why = "its card cannot be read" if chapter else "chapter not written yet"
            rows.append({"paper": paper, "chapter": chapter, "claim": None, "why": why})
    return render("ledger.html.j2", edition=edition, rows=rows, RANK=RANK, EVIDENCE=EVIDENCE, STATUSES=STATUSES)


def summary_html(edition: Edition) -> str:
    """Return the table of the home page: each chapter with its verdicts at the printed profile."""
    rows = [
        {"chapter": chapter, "counts": counts(verdicts), "total": len(verdicts), "said": counts_said(verdicts)}
        for chapter in edition.chapters.values()
        for verdicts in [chapter.verdicts.get(edition.profile, ())]
    ]
    total = Counter()
    for row in rows:
        total.update(row["counts"])
    return render("summary.html.j2", edition=edition, rows=rows, total=total, STATUSES=STATUSES)


def coming_html(edition: Edition) -> str:
    """Return the papers whose chapters are not written yet, by part."""
    parts = {
        f"{number} {title}": [p for p in edition.papers if p.part == number and p.slug not in edition.chapters]
        for number, title in edition.parts.items()
    }
    return render("coming.html.j2", parts={title: papers for title, papers in parts.items() if papers})
