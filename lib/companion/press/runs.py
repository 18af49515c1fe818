"""Where runs lie and how they are read back: finished ones, failed tries and committed recordings.

A finished run is the folder build/runs/<profile>/<slug>/seed-<seed>/<key>/, put there whole by one rename. It is fresh
when <key> is today's key; nothing else has to be compared.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from companion.errors import CompanionError
from companion.press.card import Card
from companion.press.keys import Key, difference, run_key
from companion.press.project import Project


@dataclass(frozen=True)
class Request:
    """One run that is asked for.

    overrides: values for names of the parameters cell that replace the profile's; portable: pin the vector width;
    force: run it even if it is there.
    """

    slug: str
    profile: str
    seed: int
    overrides: dict[str, Any] = field(default_factory=dict)
    portable: bool = False
    force: bool = False

    @property
    def name(self) -> str:
        """A name for files and folders, the same for the same run and different for any other."""
        return f"{self.slug}.{self.profile}.{_folder_name(self.seed, self.overrides, self.portable)}"


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what stands in its record.json and results.json."""

    path: Path
    record: dict[str, Any]
    results: dict[str, Any]

    @property
    def seed(self) -> int:
        return self.results["seed"]

    @property
    def notebook(self) -> Path:
        """The executed notebook."""
        return self.path / "chapter.ipynb"


@dataclass(frozen=True)
class Recorded:
    """A committed run of another day or machine; `stale` when its key is not today's, `reasons` says why."""

    seed: int
    results: dict[str, Any]
    record: dict[str, Any]
    stale: bool
    reasons: tuple[str, ...]


def seed_folder(root: Path, slug: str, profile: str, seed: int) -> Path:
    """Return <root>/<profile>/<slug>/seed-<seed>, for `project.runs` and `project.failures`."""
    return root / profile / slug / f"seed-{seed}"


def run_path(project: Project, slug: str, profile: str, seed: int, key: Key) -> Path:
    """Return the folder in which the run with this key lies, or will lie."""
    return seed_folder(project.runs, slug, profile, seed) / key.digest


def read_run(path: Path) -> Run | None:
    """Return the finished run in a folder, or None if there is none."""
    try:
        record = json.loads((path / "record.json").read_text(encoding="utf-8"))
        results = json.loads((path / "results.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Run(path, record, results)


def find_run(
    project: Project,
    card: Card,
    profile: str,
    seed: int,
    *,
    overrides: Mapping[str, Any] | None = None,
    portable: bool = False,
) -> Run | None:
    """Return the fresh run, the one that has today's key, or None."""
    key = run_key(project, card, profile, seed, overrides=overrides, portable=portable)
    return read_run(run_path(project, card.slug, profile, seed, key))


def latest_run(
    project: Project,
    slug: str,
    profile: str,
    seed: int,
    *,
    overrides: Mapping[str, Any] | None = None,
    portable: bool = False,
) -> Run | None:
    """Return the newest run of any key, made with the same overrides and portability, or None."""
    runs = [run for run in all_runs(project, slug, profile, seed) if same_kind(run, overrides, portable)]
    return max(runs, key=lambda run: run.record["started"], default=None)


def all_runs(project: Project, slug: str, profile: str, seed: int) -> list[Run]:
    """Return every finished run of one seed."""
    folder = seed_folder(project.runs, slug, profile, seed)
    found = [read_run(path) for path in sorted(folder.iterdir())] if folder.is_dir() else []
    return [run for run in found if run]


def same_kind(run: Run, overrides: Mapping[str, Any] | None, portable: bool) -> bool:
    """Return whether a run was made with these overrides and this portability, so that a newer one replaces it."""
    return run.record["overrides"] == dict(overrides or {}) and run.record["portable"] == bool(portable)


def stale_reasons(key: Key, run: Run | Recorded) -> tuple[str, ...]:
    """Return what changed since a run was made; empty if its key is `key`."""
    if run.record["key"] == key.digest:
        return ()
    reasons = tuple(difference(run.record["parts"], key.parts))
    return reasons or ("it was recorded for another chapter, profile or seed",)


def find_failure(project: Project, slug: str, profile: str, seed: int) -> dict[str, Any] | None:
    """Return failure.json of the last try of a run if that failed, or None.

    Its fields: chapter, profile, seed, key, kind ("exception", "dead kernel", "time-out", "out of memory", "card",
    "set-up", "sources changed", "interrupted"), cell (its number among all cells of chapter.py, from 0, or null; no
    number in the cell that papermill puts in), message, traceback, when (ISO, UTC) and notebook (the path of
    the partly executed notebook, or null). A run that is there again may leave its failure behind when the command is
    killed at that moment: look for the run first.
    """
    return read_failure(project, Request(slug, profile, seed))


def read_failure(project: Project, request: Request) -> dict[str, Any] | None:
    """Return what `find_failure` returns, for runs with overrides or pinned vector width too."""
    folder = failure_path(project, request)
    try:
        failure = json.loads((folder / "failure.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    notebook = folder / "chapter.ipynb"
    return {**failure, "notebook": str(notebook) if notebook.is_file() else None}


def failure_path(project: Project, request: Request) -> Path:
    """Return the failures folder of a run; only plain runs lie in seed-<seed>, which the pages show."""
    name = _folder_name(request.seed, request.overrides, request.portable)
    return project.failures / request.profile / request.slug / name


def _folder_name(seed: int, overrides: Mapping[str, Any], portable: bool) -> str:
    name = f"seed-{seed}" + ("-portable" if portable else "")
    if overrides:
        name += "-" + hashlib.sha256(json.dumps(overrides, sort_keys=True).encode()).hexdigest()[:8]
    return name


def scratch_root(project: Project, request: Request) -> Path:
    """Return the folder under build/tmp in which everything unfinished of a run lies."""
    return project.build / "tmp" / request.name


def scratch_folder(project: Project, request: Request) -> Path:
    """Return a new folder for unfinished files of a run, on the file system of the finished ones."""
    root = scratch_root(project, request)
    root.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=root))


def publish(made: Path, target: Path, replaced: Path) -> None:
    """Rename a finished folder to its place; one that lies there is first renamed to `replaced`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(replaced)
    made.rename(target)


def recorded_path(project: Project, slug: str, profile: str, seed: int) -> Path:
    """Return where a recorded run is committed."""
    return project.results / profile / slug / f"seed-{seed}.json"


def recorded_runs(project: Project, card: Card, profile: str) -> list[Recorded]:
    """Return the committed runs results/<profile>/<slug>/seed-<n>.json, by seed, each held against today's key."""
    folder = project.results / profile / card.slug
    found = []
    for path in folder.glob("seed-*.json"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            record, results = content["record"], content["results"]
            run = Recorded(results["seed"], results, record, False, ())
        except (ValueError, KeyError, TypeError):
            name = path.relative_to(project.root).as_posix()
            raise CompanionError(
                f"{name} is no recorded run: expected JSON with record and results. Restore it from git, or renew it "
                "with `companion reference`."
            ) from None
        key = run_key(project, card, profile, run.seed, portable=record["portable"])
        reasons = stale_reasons(key, run)
        found.append(Recorded(run.seed, results, record, bool(reasons), reasons))
    return sorted(found, key=lambda run: run.seed)
