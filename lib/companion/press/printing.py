"""Prints the book's sources to HTML with Jupyter Book, and swaps the result in whole.

build/html is a link to a folder under build/book/printed. A new printing is made beside the old one and the link is
replaced at the end by one rename, so a reader never meets a half-written page and a failed printing changes nothing.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from companion.errors import CompanionError
from companion.press.project import Project

STAMP = ".printed.json"
TREES = ("book", "lib/companion", "notebooks", "data_manifests", "results")
"""Folders of the checkout that the pages are made from, besides runs, failures and gates under build/."""
DOWNLOADS = ("runs", "sources", "failures", "galleries")
"""Folders of the book's sources that are no pages; they are copied to the printed book as they are."""
WARNING = re.compile(r"WARNING|ERROR|Error|Exception|warnings treated")


def input_digest(project: Project, choices: Mapping[str, Any]) -> str:
    """Return a digest over everything that the printed book is made from, and over the choices of the command line."""
    total = hashlib.sha256(json.dumps([sys.version, choices], sort_keys=True).encode())
    for path in _inputs(project):
        total.update(f"\0{path}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _inputs(project: Project) -> Iterable[Path]:
    yield from (project.root / "_config.yml", project.lock)
    for tree in TREES:
        for path in sorted((project.root / tree).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and ".ipynb_checkpoints" not in path.parts:
                yield path
    yield from sorted(project.runs.glob("*/*/*/*/record.json"))
    yield from sorted(project.failures.glob("*/*/*/failure.json"))
    yield from sorted((project.build / "gates").glob("*/*.json"))


def html_path(project: Project) -> Path:
    """Return where the printed book is found."""
    return project.build / "html"


def stamp(project: Project) -> dict[str, Any]:
    """Return what is known of the present printing: its digest of inputs and its problems; empty if there is none."""
    try:
        return json.loads((html_path(project) / STAMP).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}


def stage(folder: Path, files: Mapping[str, str | Path]) -> None:
    """Make `folder` hold exactly `files`; what is the same already is not touched, so that Sphinx need not read it."""
    for name, content in files.items():
        path = folder / name
        fresh = content.encode() if isinstance(content, str) else content.read_bytes()
        if not path.is_file() or path.read_bytes() != fresh:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(fresh)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(folder).as_posix() not in files:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def run_sphinx(project: Project, source: Path, menu: str) -> Path:
    """Print the sources with Jupyter Book, warnings being errors, and return the folder of pages.

    menu: a digest over all that every page shows (titles, table of contents, configuration, style); when it changes,
    every page is printed anew, else only those that changed.
    Raises CompanionError with the warnings if there was one.
    """
    output = project.build / "book" / "sphinx"
    known = output / "menu.txt"
    if not known.is_file() or known.read_text() != menu:
        shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(source)]
    command += ["--config", str(project.root / "_config.yml"), "--toc", str(source / "_toc.yml")]
    command += ["--path-output", str(output), "-W", "--keep-going"]
    log = project.build / "logs" / "book.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "NO_COLOR": "1", "COMPANION_ROOT": str(project.root)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=project.root)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    log.write_text(said, encoding="utf-8")
    if done.returncode:
        # Sphinx reads a page with a warning only once: forget what it knows, so that the warning comes again
        known.unlink(missing_ok=True)
        lines = [line.replace(f"{source}/", "") for line in said.splitlines() if WARNING.search(line)]
        raise CompanionError(
            "the book was not printed, because Jupyter Book warned:\n  "
            + "\n  ".join(dict.fromkeys(lines[:40]))
            + f"\nThe former printing, if any, stays. Everything it said is in {log}."
        )
    known.write_text(menu)
    return output / "_build" / "html"


def assemble(project: Project, pages: Path, source: Path) -> Path:
    """Return a new folder with the pages and the files that they offer for download; it is not shown yet."""
    folder = project.build / "book" / "printed"
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{os.getpid()}-{os.urandom(4).hex()}"
    ignored = shutil.ignore_patterns("_sources", ".buildinfo*", "objects.inv")
    shutil.copytree(pages, made, ignore=ignored)
    for name in DOWNLOADS:
        if (source / name).is_dir():
            shutil.copytree(source / name, made / name)
    (made / ".nojekyll").touch()
    return made


def swap(project: Project, made: Path, content: Mapping[str, Any]) -> None:
    """Show the printed book in `made` instead of the former one, by one rename."""
    (made / STAMP).write_text(json.dumps(dict(content), indent=1) + "\n", encoding="utf-8")
    target = html_path(project)
    if target.is_dir() and not target.is_symlink():  # not made here
        target.rename(made.with_name(f"{made.name}-replaced"))
    link = made.with_name(f"{made.name}-link")
    link.symlink_to(os.path.relpath(made, target.parent))
    link.replace(target)
    for path in made.parent.iterdir():
        if path != made:
            shutil.rmtree(path, ignore_errors=True)
