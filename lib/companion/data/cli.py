"""`companion data list | fetch | verify | where`."""

import argparse
import os
import sys
import time

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from companion.data import local, manifest
from companion.data.fetch import fetch
from companion.data.local import Found
from companion.data.manifest import Manifest
from companion.errors import CompanionError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the four actions of `companion data` to `parser`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, summary: str, function: object) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        action.set_defaults(function=function)
        return action

    add("list", "show every data set: kind, where it was found, size, licence", list_all)
    action = add("fetch", "download data sets into the cache unless they are on this machine", fetch_named)
    action.add_argument("names", nargs="+", metavar="NAME", help="a data set")
    action.add_argument(
        "--trust-on-first-use",
        action="store_true",
        help="accept files whose sha256 no published list confirms, and record the one they have now",
    )
    action = add("verify", "hash the files of data sets anew and compare them with the manifests", verify)
    action.add_argument("names", nargs="*", metavar="NAME", help="a data set (default: all)")
    action = add("where", "print the folder in which a data set was found", where)
    action.add_argument("name", metavar="NAME", help="a data set")


def list_all(options: argparse.Namespace) -> int:
    """Print one row a data set; files are looked for, not hashed."""
    table = Table("name", "kind", "where", "size", "licence", box=None, header_style="bold", pad_edge=False)
    table.columns[0].no_wrap = True
    table.columns[3].justify = "right"
    for name in manifest.names():
        described = manifest.load_manifest(name)
        table.add_row(name, described.kind, *_where_and_size(described), escape(described.licence["name"]))
    console = _console()
    console.print(table)
    given = os.environ.get("COMPANION_DATA") or "not set"
    console.print(f"\nCOMPANION_DATA: {given}    cache: {local.cached_data()}", **_PLAIN)
    return 0


def fetch_named(options: argparse.Namespace) -> int:
    """Fetch each named data set; one that fails does not keep the others from being fetched."""
    failures = []
    for name in options.names:
        try:
            described = manifest.load_manifest(name)
            found = fetch(
                described,
                trust=options.trust_on_first_use,
                progress=sys.stderr.isatty(),
                report=lambda line: print(line, file=sys.stderr),
            )
            print(f"{name}: verified, {_size(found)} in {found.root} ({found.place})")
        except CompanionError as error:
            failures.append(f"{name}: {error}" if name not in str(error) else str(error))
    if failures:
        raise CompanionError("\n".join(failures))
    return 0


def verify(options: argparse.Namespace) -> int:
    """Hash every file that is present; return 1 if one is wrong or a data set that was asked for is missing."""
    console, status = _console(), 0
    for name in options.names or manifest.names():
        described = manifest.load_manifest(name)
        if described.kind == "generated":
            console.print(f"{name}: drawn by {described.loader}, nothing to verify", style="dim", **_PLAIN)
            continue
        start, checked, problems = time.perf_counter(), 0, []
        for found in local.candidates(described):
            for key in local.present(found):
                try:
                    local.check(described, found, key, again=True)
                    checked += 1
                except CompanionError as error:
                    problems.append(str(error))
        found = local.locate(described)
        seconds = time.perf_counter() - start
        if problems:
            status = 1
            console.print(f"{name}: WRONG\n  " + "\n  ".join(problems), style="red", **_PLAIN)
        elif found is None:
            status = max(status, int(bool(options.names)))
            console.print(f"{name}: not on this machine\n  {local.absence(described)}", style="yellow", **_PLAIN)
        else:
            summary = f"{name}: ok, {_files(checked)}, {_size(found)}, {found.place}, {seconds:.1f} s"
            console.print(summary, style="green", **_PLAIN)
    return status


def where(options: argparse.Namespace) -> int:
    """Print the folder that holds the data set, alone on a line, for use in scripts."""
    described = manifest.load_manifest(options.name)
    if described.kind == "generated":
        raise CompanionError(f"data set {options.name!r} is drawn by {described.loader}: it lies nowhere.")
    found = local.locate(described)
    if found is None:
        raise CompanionError(f"data set {options.name!r} is not on this machine:\n  {local.absence(described)}")
    print(found.root)
    return 0


_PLAIN = {"markup": False, "highlight": False, "soft_wrap": True}


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120)


def _where_and_size(described: Manifest) -> tuple[str, str]:
    if described.kind == "generated":
        return "drawn when used", "-"
    found = local.locate(described)
    if found is not None:
        return f"[green]{escape(found.place)}[/]", _size(found)
    partly = [(len(local.present(place)), place) for place in local.candidates(described)]
    count, place = max(partly, key=lambda entry: entry[0], default=(0, None))
    layout = next((layout for layout in described.layouts if layout.downloads), described.layouts[0])
    if count:
        return f"[yellow]{escape(place.place)}: {count} of {len(place.layout.files)} files[/]", _size(place)
    if not layout.downloads:
        return "[dim]not here, no download[/]", _megabytes(layout.size)
    return "[dim]can be fetched[/]", _megabytes(sum(file.size or 0 for file in layout.downloads.values()))


def _size(found: Found) -> str:
    return _megabytes(found.layout.size)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size else "unknown"


def _files(count: int) -> str:
    return f"{count} file{'s' if count != 1 else ''}"
