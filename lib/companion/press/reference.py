"""`companion reference`: renew what is committed under results/, and say what moved.

For smoke that is the reference of the gates (results/smoke/<slug>/); for every other profile it is recorded runs
(results/<profile>/<slug>/seed-<n>.json). Nothing is written unless every run that was needed is there.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from companion.errors import CompanionError
from companion.press.card import Card, load_card
from companion.press.check import PROFILE, chosen_slugs, smoke_request
from companion.press.claims import verdicts
from companion.press.gate_verdicts import verdicts_json
from companion.press.project import Project
from companion.press.reference_files import (
    moved,
    moved_metrics,
    moved_verdicts,
    reference_folder,
    replace_json,
    same_files,
    without_cells,
    write_reference,
)
from companion.press.run import job_count, seed_list
from companion.press.runs import Recorded, Request, Run, find_run, publish, recorded_path, recorded_runs
from companion.press.schedule import ensure_runs

LARGEST = 200_000  # bytes of one recorded run


@dataclass(frozen=True)
class Renewal:
    """The recorded runs of one chapter that are renewed: the runs, and those that they replace."""

    card: Card
    runs: tuple[Run, ...]
    before: tuple[Recorded, ...]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `companion reference`."""
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="chapters to renew (default: all)")
    parser.add_argument("--profile", default=PROFILE, help="smoke (default), or a profile whose runs are recorded")
    parser.add_argument("--seeds", type=seed_list, metavar="LIST", help="recorded seeds (default: the card's)")
    parser.add_argument("--jobs", type=job_count, metavar="N", help="runs at once (default: the number of cores)")
    parser.set_defaults(function=run)


def run(options: argparse.Namespace) -> int:
    """Run what is stale, write the references and print what moved; 1, and nothing written, if a run failed."""
    project = Project.find()
    slugs = chosen_slugs(project, options.chapters)
    if options.profile == PROFILE:
        if options.seeds is not None:
            raise CompanionError("--seeds: the smoke reference is of one seed, the first of the card; leave it out.")
        return renew_smoke(project, slugs, options.jobs)
    cards = [load_card(project, slug) for slug in slugs]
    if not options.chapters:
        cards = [card for card in cards if options.profile in card.profiles]
    if not cards:
        raise CompanionError(f"no chapter has a profile {options.profile!r}; the cards in notebooks/ name theirs.")
    return renew_recorded(project, cards, options.profile, options.seeds, options.jobs)


def _run_all(project: Project, requests: Sequence[Request], jobs: int | None) -> bool:
    failed = ensure_runs(project, requests, jobs).failed
    for request, failure in failed:
        print(f"{request.slug}, seed {request.seed}: {failure['kind']}: {failure['message']}")
    if failed:
        print("nothing was written: every run must be there first")
    return not failed


def renew_smoke(project: Project, slugs: Sequence[str], jobs: int | None = None) -> int:
    """Renew results/smoke/<slug> for these chapters."""
    requests = [smoke_request(project, slug) for slug in slugs]
    if not _run_all(project, requests, jobs):
        return 1
    staged = []
    try:
        for request in requests:
            card = load_card(project, request.slug)
            found = find_run(project, card, PROFILE, request.seed, portable=True)
            if found is None:
                raise CompanionError(f"chapter {card.slug}: its sources changed while it ran; call again.")
            staged.append((card, reference_folder(project, card.slug), _fresh_folder(project, card.slug, "new")))
            write_reference(found, card, staged[-1][2])
        for card, reference, new in staged:
            print("\n".join(_put_in_place(project, card, reference, new)))
    finally:
        for _, _, new in staged:
            shutil.rmtree(new, ignore_errors=True)
    return 0


def _fresh_folder(project: Project, slug: str, kind: str) -> Path:
    """Return the path of a neighbour of the reference, which does not exist; a rename from there is one step."""
    folder = project.results / PROFILE / f".{kind}-{slug}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _put_in_place(project: Project, card: Card, reference: Path, new: Path) -> list[str]:
    """Replace a reference unless the new one is the same, and return what is said about it."""
    if not reference.is_dir():
        new.rename(reference)
        return [f"{card.slug}: a first reference; look at its numbers before you commit {_name(project, reference)}"]
    changes, same = _moved_or_damaged(reference, new), same_files(reference, new)
    keys = [json.loads((folder / "record.json").read_text())["key"] for folder in (reference, new) if same]
    if same and keys[0] == keys[1]:
        return [f"{card.slug}: up to date, nothing moved"]
    old = _fresh_folder(project, card.slug, "old")
    publish(new, reference, old)
    shutil.rmtree(old)
    if same:
        return [f"{card.slug}: nothing moved; the record is of today's sources now"]
    return [f"{card.slug}: what moved", *[f"  {line}".rstrip() for line in changes or ["code of the chapter only"]]]


def _moved_or_damaged(reference: Path, new: Path) -> list[str]:
    try:
        return moved(reference, new)
    except (OSError, ValueError, KeyError) as error:
        return [f"the old reference could not be read ({error}), so it cannot be said what moved"]


def renew_recorded(
    project: Project, cards: Sequence[Card], profile: str, seeds: Sequence[int] | None = None, jobs: int | None = None
) -> int:
    """Renew results/<profile>/<slug>/seed-<n>.json where it is missing or stale."""
    due: list[tuple[Card, list[int]]] = []
    for card in cards:
        chosen = card.profile(profile)
        fresh = {one.seed for one in recorded_runs(project, card, profile) if not one.stale}
        wanted = chosen.recorded_seeds or chosen.seeds if seeds is None else seeds
        due.append((card, [seed for seed in wanted if seed not in fresh]))
        if not due[-1][1]:
            print(f"{card.slug}: recorded {profile} runs are up to date (seeds {', '.join(map(str, wanted))})")
    requests = [Request(card.slug, profile, seed) for card, missing in due for seed in missing]
    if requests and not _run_all(project, requests, jobs):
        return 1
    renewals = [_renewal(project, card, profile, missing) for card, missing in due if missing]
    contents = [(renewal, _contents(project, renewal, profile)) for renewal in renewals]  # all are sound: now write
    for renewal, content in contents:
        before = _verdicts(project, renewal.card, profile)
        for path, recorded in content.items():
            replace_json(path, recorded)
        print("\n".join(_recorded_changes(renewal, before, _verdicts(project, renewal.card, profile))))
    return 0


def _renewal(project: Project, card: Card, profile: str, seeds: Sequence[int]) -> Renewal:
    runs = [find_run(project, card, profile, seed) for seed in seeds]
    if None in runs:
        raise CompanionError(f"chapter {card.slug}: its sources changed while it ran; nothing was written, call again.")
    return Renewal(card, tuple(runs), tuple(recorded_runs(project, card, profile)))


def _contents(project: Project, renewal: Renewal, profile: str) -> dict[Path, dict]:
    """Return {path: content} of the recorded runs; raise CompanionError for one that is too large to commit."""
    found = {}
    for run in renewal.runs:
        content = {"record": run.record, "results": without_cells(run.results)}
        size = len(json.dumps(content, indent=1, ensure_ascii=False).encode())
        if size > LARGEST:
            raise CompanionError(
                f"the recorded run of chapter {renewal.card.slug}, {profile}, seed {run.seed} would take "
                f"{size / 1000:.0f} kB with {len(run.results['metrics'])} metrics; expected at most "
                f"{LARGEST / 1000:.0f} kB, because it is committed. Record fewer metrics: series belong in arrays."
            )
        found[recorded_path(project, renewal.card.slug, profile, run.seed)] = content
    return found


def _verdicts(project: Project, card: Card, profile: str) -> dict:
    """Return the verdicts over the fresh run and the recorded seeds, as the book prints them."""
    fresh = [find_run(project, card, profile, seed) for seed in card.profile(profile).seeds]
    return verdicts_json(verdicts(card, [*filter(None, fresh), *recorded_runs(project, card, profile)]))


def _recorded_changes(renewal: Renewal, before: dict, now: dict) -> list[str]:
    found = [f"{renewal.card.slug}: recorded {', '.join(f'seed {run.seed}' for run in renewal.runs)}"]
    found += [f"  {line}" for line in moved_verdicts(before, now)]
    old = {one.seed: one.results for one in renewal.before}
    for run in renewal.runs:
        if run.seed not in old:
            found.append(f"  seed {run.seed}: new, {len(run.results['metrics'])} metrics")
            continue
        changes = moved_metrics(old[run.seed], run.results) or ["nothing moved; the record is of today's sources now"]
        found += [f"  seed {run.seed}, {changes[0]}", *[f"    {line}" for line in changes[1:]]]
    return found


def _name(project: Project, path: Path) -> str:
    return path.relative_to(project.root).as_posix()
