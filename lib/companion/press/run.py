"""`companion run`: do the runs that have no up-to-date result."""

import argparse
import contextlib
from dataclasses import replace

from companion.errors import CompanionError
from companion.press import progress, schedule
from companion.press.card import load_card
from companion.press.card_schema import near
from companion.press.keys import parse_override
from companion.press.plan import make_plan
from companion.press.project import Project
from companion.press.runs import Request


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `companion run`."""
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="chapters to run (default: all)")
    parser.add_argument("--profile", default="laptop", help="smoke, laptop (default), real or paper")
    parser.add_argument("--seeds", type=seed_list, metavar="LIST", help="such as 0,1 or 0-4 (default: the card's)")
    parser.add_argument("--jobs", type=job_count, metavar="N", help="runs at once (default: the number of cores)")
    parser.add_argument("--portable", action="store_true", help="pin the vector width, so that x86 machines agree")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="replace a parameter")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    parser.add_argument("--force", action="store_true", help="run again what is up to date")
    parser.add_argument(
        "--snakemake",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="...",
        help="everything after this goes to Snakemake, such as --snakemake --executor slurm",
    )
    parser.set_defaults(function=run)


def seed_list(text: str) -> list[int]:
    """Return the seeds of a list such as 0,1 or 0-4.

    >>> seed_list("0,2-4")
    [0, 2, 3, 4]
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not (last.isdecimal() and int(last) >= int(first))):
            raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers of at least 0, such as 0,1 or 0-4")
        seeds += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(seeds))


def job_count(text: str) -> int:
    """Return a number of jobs, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Plan, run and sum up; the status is 1 if a run failed or could not begin."""
    project = Project.find()
    overrides = dict(parse_override(text) for text in options.set)
    slugs = list(dict.fromkeys(options.chapters)) or project.slugs()
    if not options.chapters:
        check_profile(project, slugs, options.profile)
    requests = [
        replace(request, overrides=overrides, portable=options.portable, force=options.force)
        for request in wanted(project, slugs, options.profile, options.seeds, strict=bool(options.chapters))
    ]
    if options.dry_run:
        plan = make_plan(project, requests)
        progress.print_plan(progress.make_console(), plan, options.jobs or schedule.cores())
        return 1 if any(entry.failure for entry in plan.entries) else 0
    return schedule.ensure_runs(project, requests, options.jobs, arguments=options.snakemake).exit_code


def check_profile(project: Project, slugs: list[str], profile: str) -> None:
    """Raise CompanionError if no card that can be read has this profile."""
    known: dict[str, None] = {}
    for slug in slugs:
        with contextlib.suppress(CompanionError):  # a card that cannot be read is reported with the plan
            known |= dict.fromkeys(load_card(project, slug).profiles)
    if known and profile not in known:
        raise CompanionError(f"unknown profile {profile!r}: expected one of {', '.join(known)}{near(profile, known)}.")
    if not slugs:
        raise CompanionError(f"{project.notebooks} holds no chapter: expected folders with chapter.py and paper.yml.")


def wanted(
    project: Project, slugs: list[str], profile: str, seeds: list[int] | None = None, strict: bool = False
) -> list[Request]:
    """Return the runs of `profile` for these chapters, with the card's seeds unless `seeds` are given.

    strict: ask for a chapter that has no such profile too, so that it is reported. A chapter that does not exist or
    whose card cannot be read is always asked for, and then reported as a run that cannot begin.
    """
    requests = []
    for slug in slugs:
        try:
            card = load_card(project, slug)
        except CompanionError:
            requests += [Request(slug, profile, seed) for seed in seeds or [0]]
            continue
        if profile in card.profiles or strict:
            own = card.profiles[profile].seeds if profile in card.profiles else [0]
            requests += [Request(slug, profile, seed) for seed in (own if seeds is None else seeds)]
    return requests
