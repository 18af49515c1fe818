"""`companion build`: run what is missing and print the book to build/html."""

import argparse
import hashlib
import time
from pathlib import Path

from filelock import FileLock

from companion.errors import CompanionError
from companion.press import printing
from companion.press.card import load_card, near
from companion.press.project import Project
from companion.press.run import job_count, seed_list, wanted
from companion.press.schedule import ensure_runs


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `companion build`."""
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="run only these (default: all); all are printed")
    parser.add_argument("--profile", default="laptop", help="smoke, laptop (default), real or paper")
    parser.add_argument("--seeds", type=seed_list, metavar="LIST", help="such as 0,1 or 0-4 (default: the card's)")
    parser.add_argument("--jobs", type=job_count, metavar="N", help="runs at once (default: the number of cores)")
    parser.add_argument("--portable", action="store_true", help="pin the vector width, so that x86 machines agree")
    parser.add_argument("--no-run", action="store_true", help="print what is there and run nothing")
    parser.set_defaults(function=build)


def build(options: argparse.Namespace) -> int:
    """Run what is missing, print the book, and return 1 if a chapter failed, else 0."""
    project = Project.find()
    check_profile(project, options.profile)
    failed = 0 if options.no_run else run_missing(project, options)
    (project.build / "book").mkdir(parents=True, exist_ok=True)
    with FileLock(project.build / "book" / "lock"):
        problems = print_book(project, options.profile, options.portable)
    for problem in problems:
        print(f"not printed as it should be: {problem}")
    return 1 if failed or problems else 0


def check_profile(project: Project, profile: str) -> None:
    """Raise CompanionError if no chapter has the profile; a card that cannot be read might have it."""
    known: set[str] = set()
    for slug in project.slugs():
        try:
            known |= set(load_card(project, slug).profiles)
        except CompanionError:
            return
    if profile not in known:
        expected = ", ".join(sorted(known)) or "(there is no chapter yet)"
        raise CompanionError(f"no chapter has a profile {profile!r}{near(profile, known)}; expected one of {expected}.")


def run_missing(project: Project, options: argparse.Namespace) -> int:
    """Do the runs that have no up-to-date result; return the exit code."""
    slugs = list(dict.fromkeys(options.chapters)) or project.slugs()
    requests = wanted(project, slugs, options.profile, options.seeds, strict=bool(options.chapters))
    return ensure_runs(project, requests, options.jobs, portable=options.portable).exit_code if requests else 0


def print_book(project: Project, profile: str, portable: bool = False) -> list[str]:
    """Print the book if anything changed; return what is wrong with chapters whose pages show a failure instead.

    Raises CompanionError if the book could not be printed; the former printing then stays as it was.
    """
    started = time.monotonic()
    digest = printing.input_digest(project, {"profile": profile, "portable": portable})
    known = printing.stamp(project)
    index = printing.html_path(project) / "index.html"
    if known.get("digest") == digest:
        print(f"The book is up to date: {index}")
        return known["problems"]
    problems = _print(project, profile, portable, digest)
    print(f"Printed in {time.monotonic() - started:.0f} s: {index}")
    return problems


def _print(project: Project, profile: str, portable: bool, digest: str) -> list[str]:
    from companion.press import dashboard, pages  # slow to import, and not needed when nothing changed
    from companion.press.edition import read_edition
    from companion.press.records import now

    edition = read_edition(project, profile, portable)
    files, problems = pages.compose(edition)
    problems += [f"{slug}: {chapter.error}" for slug, chapter in edition.chapters.items() if chapter.error]
    problems += [
        f"{slug}: {one['kind']} at seed {one['seed']}: {one['message']}"
        for slug, chapter in edition.chapters.items()
        for one in chapter.failures
    ]
    source = project.build / "book" / "source"
    printing.stage(source, files)
    html = printing.run_sphinx(project, source, _menu(project, pages.titles(files), files))
    made = printing.assemble(project, html, source)
    dashboard.write_status(edition, made, now())
    printing.swap(project, made, {"digest": digest, "problems": problems, "profile": profile})
    return problems


def _menu(project: Project, titles: list[str], files: dict[str, str | Path]) -> str:
    """Return a digest over everything that all pages show, so that a change of it prints all of them anew."""
    shown = [
        *titles,
        str(files["_toc.yml"]),
        (project.root / "_config.yml").read_text(encoding="utf-8"),
        project.lock.read_text(),
    ]
    shown.append(Path(__file__).with_name("sphinx_extension.py").read_text(encoding="utf-8"))
    shown += [path.read_text(encoding="utf-8") for name, path in files.items() if name.startswith("_static/")]
    return hashlib.sha256("\0".join(shown).encode()).hexdigest()
