"""`companion check`: hold each chapter's smoke run against its committed reference, gate by gate."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from companion.errors import CompanionError
from companion.press.card import Card, load_card
from companion.press.claims import verdicts
from companion.press.gate_figures import figures_gate
from companion.press.gate_numbers import numbers_gate
from companion.press.gate_text import text_gate
from companion.press.gate_verdicts import verdicts_gate
from companion.press.gates import GATES, Report, Row, no_reference
from companion.press.keys import difference, run_key
from companion.press.project import Project
from companion.press.records import now
from companion.press.reference_files import digest, reference_folder, replace_json
from companion.press.run import job_count
from companion.press.runs import Request, Run, find_run, read_failure
from companion.press.schedule import ensure_runs

PROFILE = "smoke"  # the only profile with references: small enough to be run on every change


@dataclass(frozen=True)
class Checked:
    """What came of one chapter: a report for each gate, or the reason why it could not be checked."""

    slug: str
    run: Run | None
    reports: tuple[Report, ...] = ()
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether every gate that was asked for passed."""
        return not self.error and bool(self.reports) and all(report.passed for report in self.reports)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `companion check`."""
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="chapters to check (default: all)")
    parser.add_argument("--gate", action="append", choices=GATES, help="only this gate; may be given again")
    parser.add_argument("--profile", choices=[PROFILE], default=PROFILE, help="the profile that has references")
    parser.add_argument("--jobs", type=job_count, metavar="N", help="runs at once (default: the number of cores)")
    parser.set_defaults(function=run)


def run(options: argparse.Namespace) -> int:
    """Run what is missing, apply the gates and print them; 0 only if every chapter, and at least one, passed."""
    project = Project.find()
    slugs = chosen_slugs(project, options.chapters)
    gates = [gate for gate in GATES if gate in (options.gate or GATES)]
    ensure_runs(project, [smoke_request(project, slug) for slug in slugs], options.jobs)
    found = []
    for slug in slugs:
        found.append(check_chapter(project, slug, gates))
        print("\n".join(lines(project, found[-1])), flush=True)
    failed = [checked.slug for checked in found if not checked.passed]
    print(
        f"{len(found) - len(failed)} of {len(found)} chapters passed" + (f"; not {', '.join(failed)}" if failed else "")
    )
    return 1 if failed or not found else 0


def chosen_slugs(project: Project, names: Sequence[str]) -> list[str]:
    """Return the chapters asked for, or all; raise CompanionError if there is none."""
    slugs = list(dict.fromkeys(names)) or project.slugs()
    if not slugs:
        raise CompanionError(f"{project.notebooks} holds no chapter: expected folders with chapter.py and paper.yml.")
    return slugs


def smoke_request(project: Project, slug: str) -> Request:
    """Return the request for the run that a chapter's reference is made of: smoke, its first seed, portable."""
    try:
        seed = load_card(project, slug).profile(PROFILE).seeds[0]
    except CompanionError:
        seed = 0  # the run itself will say what is wrong with the card
    return Request(slug, PROFILE, seed, portable=True)


def check_chapter(project: Project, slug: str, gates: Sequence[str] = GATES) -> Checked:
    """Apply the gates to the up-to-date smoke run of a chapter, and keep the outcome for the status page."""
    try:
        card = load_card(project, slug)
        seed = card.profile(PROFILE).seeds[0]
        found = find_run(project, card, PROFILE, seed, portable=True)
        if found is None:
            return Checked(slug, None, error=_why_no_run(project, Request(slug, PROFILE, seed, portable=True)))
        reference = reference_folder(project, slug)
        if not reference.is_dir():
            raise no_reference(reference, slug)
        checked = Checked(slug, found, tuple(_apply(gate, project, card, found, reference) for gate in gates))
    except CompanionError as error:
        return Checked(slug, None, error=str(error))
    _keep(project, checked, reference)
    return checked


def _why_no_run(project: Project, request: Request) -> str:
    failure = read_failure(project, request)
    if not failure:
        return f"no up-to-date run: `companion run {request.slug} --profile {PROFILE} --portable` makes one"
    place = "" if failure["cell"] is None else f" in cell {failure['cell']} of chapter.py"
    return f"the run failed{place} ({failure['kind']}): {failure['message']}"


def _apply(gate: str, project: Project, card: Card, run: Run, reference: Path) -> Report:
    pictures = project.build / "gates" / PROFILE / card.slug
    timeout = card.profile(PROFILE).cell_timeout
    apply: dict[str, Callable[[], Report]] = {
        "numbers": lambda: numbers_gate(reference, run.path, card.tolerances, card.slug),
        "figures": lambda: figures_gate(reference, run.path, card.tolerances, card.slug, pictures),
        "text": lambda: text_gate(project, reference, run.path, card.slug, timeout),
        "verdicts": lambda: verdicts_gate(reference, card, verdicts(card, [run]), known_metrics(project, card, run)),
    }
    try:
        return apply[gate]()
    except CompanionError as error:  # a damaged or incomplete reference: the other gates still say what they see
        return Report(gate, (Row("this gate", "can be applied", "cannot", False),), (str(error),))


def known_metrics(project: Project, card: Card, run: Run) -> set[str]:
    """Return every metric id that this run or a recorded run of any profile has."""
    known = set(run.results["metrics"])
    for path in project.results.glob(f"*/{card.slug}/seed-*.json"):
        known |= set(json.loads(path.read_text(encoding="utf-8"))["results"]["metrics"])
    return known


def lines(project: Project, checked: Checked) -> list[str]:
    """Return what is printed about one chapter."""
    if checked.error:
        return [f"{checked.slug}: NOT CHECKED", *_indented(checked.error.splitlines())]
    found = [f"{checked.slug}: {'ok' if checked.passed else 'DIFFERS FROM ITS REFERENCE'}"]
    for report in checked.reports:
        found.append(f"  {report.gate:<9} {'ok' if report.passed else 'FAILED':<7} {report.summary()}")
        found += _indented(line for detail in report.lines() for line in detail.splitlines())
    if not checked.passed:
        found += [f"  since the reference was made: {reason}" for reason in _changes(project, checked)]
        found.append(f"  if the change is meant, `companion reference {checked.slug}` renews it and says what moved")
    return found


def _indented(texts) -> list[str]:
    return [f"    {text}".rstrip() for text in texts]


def _changes(project: Project, checked: Checked) -> list[str]:
    """Return what changed in sources and machine since the reference was made, to point at the cause."""
    record = reference_folder(project, checked.slug) / "record.json"
    if not record.is_file():
        return []
    then, today = json.loads(record.read_text(encoding="utf-8")), checked.run.record
    reasons = difference(then["parts"], today["parts"])
    for what in ("cpu", "python", "torch"):
        if then.get(what) != today.get(what):
            reasons.append(f"{what} {then.get(what)} -> {today.get(what)}")
    more = [f"{len(reasons) - 12} more"] if len(reasons) > 12 else []
    return [*reasons[:12], *more] or ["no source changed"]


def _gates_path(project: Project, slug: str) -> Path:
    return project.build / "gates" / PROFILE / f"{slug}.json"


def _keep(project: Project, checked: Checked, reference: Path) -> None:
    """Write build/gates/smoke/<slug>.json; gates of an earlier check stay if run and reference are the same."""
    path = _gates_path(project, checked.slug)
    identity = {"key": checked.run.record["key"], "reference": digest(reference)}
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    kept = before["gates"] if {name: before.get(name) for name in identity} == identity else {}
    done = {report.gate: {"when": now(), **report.as_json()} for report in checked.reports}
    gates = {gate: {**kept, **done}[gate] for gate in GATES if gate in kept or gate in done}
    content = {
        "chapter": checked.slug,
        "profile": PROFILE,
        "seed": checked.run.seed,
        **identity,
        "passed": len(gates) == len(GATES) and all(gate["passed"] for gate in gates.values()),
        "when": now(),
        "gates": gates,
    }
    replace_json(path, content)


def read_gates(project: Project, card: Card) -> dict | None:
    """Return what the last check found of a chapter, or None unless it was of today's sources and reference.

    Fields: chapter, profile, seed, key, reference, passed (all four gates were applied and passed), when, and gates:
    {gate: {when, passed, compared, differences, details}}.
    """
    path, reference = _gates_path(project, card.slug), reference_folder(project, card.slug)
    if PROFILE not in card.profiles or not path.is_file() or not reference.is_dir():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    key = run_key(project, card, PROFILE, card.profile(PROFILE).seeds[0], portable=True)
    return found if (found["key"], found["reference"]) == (key.digest, digest(reference)) else None
