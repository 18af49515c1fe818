"""`companion status`: every run, wanted or recorded, with its state and what it cost."""

import argparse
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from rich.markup import escape
from rich.table import Table

from companion.errors import CompanionError
from companion.press.card import Card, load_card
from companion.press.keys import run_key
from companion.press.progress import duration, make_console
from companion.press.project import Project
from companion.press.runs import (
    Recorded,
    Request,
    Run,
    all_runs,
    latest_run,
    read_failure,
    recorded_runs,
    seed_folder,
    stale_reasons,
)

WHY_WIDTH = 40  # a narrower column of reasons would make rows of one word a line
SHORT_COLUMNS = 95  # room for the other columns

COLOURS = {"fresh": "green", "stale": "yellow", "failed": "red", "missing": "dim"}


@dataclass(frozen=True)
class RunStatus:
    """One line of the status: a run of this checkout (`recorded` False) or a committed one (True).

    state: "fresh", "stale", "failed" or "missing"; reasons: what changed, or what failed; started: ISO, UTC;
    age_seconds, wall_seconds, peak_memory_mb, device, commit: None where there is no run. Where a card cannot be read,
    profile and seed are None.
    """

    chapter: str
    profile: str | None
    seed: int | None
    recorded: bool
    portable: bool
    state: str
    reasons: tuple[str, ...] = ()
    started: str | None = None
    age_seconds: int | None = None
    wall_seconds: float | None = None
    peak_memory_mb: int | None = None
    device: str | None = None
    commit: str | None = None


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `companion status`."""
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="chapters to show (default: all)")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.set_defaults(function=run)


def run(options: argparse.Namespace) -> int:
    """Print the status; it is no error if a run is missing or stale."""
    project = Project.find()
    for slug in options.chapters:
        if slug not in project.slugs():
            load_card(project, slug)  # says that there is no such chapter
    found = [status for slug in options.chapters or project.slugs() for status in chapter_status(project, slug)]
    if options.json:
        print(json.dumps([asdict(status) for status in found], indent=1, ensure_ascii=False))
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("chapter", "profile", "seed", "state", "age", "took", "memory", "device"):
        table.add_column(column, no_wrap=True)
    table.add_column("why", overflow="fold", min_width=WHY_WIDTH)
    for status in found:
        table.add_row(*_row(status))
    console = make_console()
    console.width = max(console.width, SHORT_COLUMNS + WHY_WIDTH)  # a narrow terminal wraps whole lines instead
    console.print(table)
    return 0


def chapter_status(project: Project, slug: str) -> list[RunStatus]:
    """Return the status of every run of a chapter: those its card wants, those there are, and those recorded."""
    try:
        card = load_card(project, slug)
    except CompanionError as error:
        return [RunStatus(slug, None, None, False, False, "failed", (str(error),))]
    found = []
    for profile in card.profiles:
        for request in _requests(project, card, profile):
            found.append(_run_status(project, card, request))
        try:
            found += [_from_run(slug, profile, run) for run in recorded_runs(project, card, profile)]
        except CompanionError as error:
            found.append(RunStatus(slug, profile, None, True, False, "failed", (str(error),)))
    return found


def _requests(project: Project, card: Card, profile: str) -> list[Request]:
    """Return the wanted runs of a profile and those that were made besides, without those with other parameters."""
    folder = seed_folder(project.runs, card.slug, profile, 0).parent
    made = {int(path.name.removeprefix("seed-")) for path in folder.glob("seed-*")}
    requests = []
    for seed in sorted({*card.profile(profile).seeds, *made}):
        plain, portable = Request(card.slug, profile, seed), Request(card.slug, profile, seed, portable=True)
        runs = [run for run in all_runs(project, card.slug, profile, seed) if not run.record["overrides"]]
        kinds = {run.record["portable"] for run in runs}
        kinds |= {request.portable for request in (plain, portable) if read_failure(project, request)}
        if False in kinds or (not kinds and seed in card.profile(profile).seeds):
            requests.append(plain)
        if True in kinds:
            requests.append(portable)
    return requests


def _run_status(project: Project, card: Card, request: Request) -> RunStatus:
    slug, profile, seed, portable = request.slug, request.profile, request.seed, request.portable
    try:
        key = run_key(project, card, profile, seed, portable=portable)
    except CompanionError as error:
        return RunStatus(slug, profile, seed, False, portable, "failed", (str(error),))
    runs = [run for run in all_runs(project, slug, profile, seed) if run.record["key"] == key.digest]
    run = runs[0] if runs else latest_run(project, slug, profile, seed, portable=portable)
    failure = read_failure(project, request)
    if failure and not runs and (failure["key"] == key.digest or run is None):
        reasons = (f"{failure['kind']}: {failure['message']}",)
        return RunStatus(
            slug, profile, seed, False, portable, "failed", reasons, failure["when"], _age(failure["when"])
        )
    if run is None:
        return RunStatus(slug, profile, seed, False, portable, "missing")
    return _from_run(slug, profile, run, stale_reasons(key, run))


def _from_run(slug: str, profile: str, run: Run | Recorded, reasons: tuple[str, ...] = ()) -> RunStatus:
    recorded = isinstance(run, Recorded)
    reasons = run.reasons if recorded else reasons
    record = run.record
    return RunStatus(
        chapter=slug,
        profile=profile,
        seed=run.seed,
        recorded=recorded,
        portable=record["portable"],
        state="stale" if reasons else "fresh",
        reasons=reasons,
        started=record["started"],
        age_seconds=_age(record["started"]),
        wall_seconds=record["wall_seconds"],
        peak_memory_mb=record["peak_memory_mb"],
        device=record["device"],
        commit=record["commit"],
    )


def _age(moment: str) -> int:
    return max(0, round((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()))


def age_words(seconds: int | None) -> str:
    """Return 3 min, 5 h or 12 days; nothing for None.

    >>> age_words(7200)
    '2 h'
    """
    if seconds is None:
        return ""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {name}"
    return f"{seconds} s"


def _row(status: RunStatus) -> list[str]:
    colour = COLOURS[status.state]
    kind = ", recorded" if status.recorded else ""
    return [
        status.chapter,
        status.profile or "",
        f"{'' if status.seed is None else status.seed}{' portable' if status.portable else ''}",
        f"[{colour}]{status.state}{kind}[/{colour}]",
        age_words(status.age_seconds),
        duration(status.wall_seconds) if status.wall_seconds is not None else "",
        f"{status.peak_memory_mb} MB" if status.peak_memory_mb is not None else "",
        status.device or "",
        escape("; ".join(reason.splitlines()[0] for reason in status.reasons)),
    ]
