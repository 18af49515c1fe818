"""Which of the wanted runs are missing, why, and how long they should take."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from companion.errors import CompanionError
from companion.press.card import Card, load_card
from companion.press.kernel import RunFailure
from companion.press.keys import Key, run_key
from companion.press.project import Project
from companion.press.runs import (
    Request,
    all_runs,
    latest_run,
    read_failure,
    read_run,
    run_path,
    same_kind,
    stale_reasons,
)

START_SECONDS = 4  # what a run takes besides its cells: processes, kernel, Snakemake's share


@dataclass(frozen=True)
class Planned:
    """One run of a plan. `why` is empty for a run that is there; `failure` stands for one that cannot even begin."""

    request: Request
    why: tuple[str, ...] = ()
    seconds: float | None = None
    """Wall time of the last run of this chapter in this profile, None if there was none."""
    used_mb: float | None = None
    """Peak memory of that run."""
    memory_mb: int = 0
    """The limit on memory that the card sets."""
    cell_timeout: int = 0
    key: Key | None = None
    failure: RunFailure | None = None

    @property
    def fresh(self) -> bool:
        return not self.why and self.failure is None


@dataclass(frozen=True)
class Plan:
    """What is to be done for a list of requests."""

    entries: tuple[Planned, ...]

    @property
    def missing(self) -> list[Planned]:
        """The runs that are to be done, longest first."""
        due = [entry for entry in self.entries if entry.why and entry.failure is None]
        return sorted(due, key=lambda entry: -(entry.seconds or 1e9))

    @property
    def unknown(self) -> int:
        """How many of the missing runs were never timed."""
        return sum(entry.seconds is None for entry in self.missing)

    def work_seconds(self) -> float:
        """Return the time that the missing runs take one after the other, as far as it is known."""
        return sum(entry.seconds + START_SECONDS for entry in self.missing if entry.seconds is not None)

    def wall_seconds(self, jobs: int) -> float:
        """Return the time that they take `jobs` at once, longest first, as far as it is known."""
        lanes = [0.0] * jobs
        for entry in self.missing:
            if entry.seconds is not None:
                lanes[lanes.index(min(lanes))] += entry.seconds + START_SECONDS
        return max(lanes)


def make_plan(project: Project, requests: Iterable[Request]) -> Plan:
    """Return which of the requested runs are missing, and why."""
    cards: dict[str, Card | CompanionError] = {}
    entries = []
    for request in {request.name: request for request in requests}.values():
        if request.slug not in cards:
            try:
                cards[request.slug] = load_card(project, request.slug)
            except CompanionError as error:
                cards[request.slug] = error
        entries.append(_plan_one(project, request, cards[request.slug]))
    return Plan(tuple(entries))


def _plan_one(project: Project, request: Request, card: Card | CompanionError) -> Planned:
    if isinstance(card, CompanionError):
        return Planned(request, failure=RunFailure("card", str(card)))
    kind = {"overrides": request.overrides, "portable": request.portable}
    try:
        profile = card.profile(request.profile)
        key = run_key(project, card, request.profile, request.seed, **kind)
    except CompanionError as error:
        return Planned(request, failure=RunFailure("set-up", str(error)))
    seconds, used = _last_time(project, card, request)
    entry = Planned(request, (), seconds, used, profile.memory_mb, profile.cell_timeout, key)
    if read_run(run_path(project, request.slug, request.profile, request.seed, key)):
        return replace(entry, why=("asked for again (--force)",)) if request.force else entry
    failure = read_failure(project, request)
    if failure and failure["key"] == key.digest:
        return replace(entry, why=(f"the last try failed: {failure['kind']}",))
    before = latest_run(project, request.slug, request.profile, request.seed, **kind)
    return replace(entry, why=stale_reasons(key, before) if before else ("never run",))


def _last_time(project: Project, card: Card, request: Request) -> tuple[float | None, float | None]:
    """Return (wall seconds, peak megabytes) of the newest comparable run: this seed before another seed."""
    seeds = dict.fromkeys([request.seed, *card.profile(request.profile).seeds])
    for seed in seeds:
        runs = all_runs(project, request.slug, request.profile, seed)
        alike = [run for run in runs if same_kind(run, request.overrides, request.portable)] or runs
        if alike:
            record = max(alike, key=lambda run: run.record["started"]).record
            return record["wall_seconds"], record["peak_memory_mb"]
    return None, None
