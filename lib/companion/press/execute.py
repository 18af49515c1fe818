"""One run in a process of its own, whose results are put in place whole.

Called by the scheduler as `python -m companion.press.execute <request.json>`; the exit status is 0 if the run is there
afterwards. The request is a JSON object with the fields of `Request`, root (of the project) and progress (the path of a
small file that says how far the run is).

Everything is written in a folder of its own under build/tmp and renamed into place at the end, so that a run is either
there whole or not at all, whenever the process is killed. A lock per run keeps two commands from doing the same work.
"""

import json
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from filelock import FileLock

from companion import sources
from companion.errors import CompanionError
from companion.press import records
from companion.press.card import Card, chapter_path, load_card
from companion.press.failures import clear_failure, publish_failure
from companion.press.kernel import RunFailure, cell_number, peak_memory_mb, run_chapter, set_environment
from companion.press.keys import Key, difference, resolve_parameters, run_key
from companion.press.project import Project
from companion.press.runs import Request, all_runs, publish, read_run, run_path, same_kind, scratch_folder, scratch_root


class Progress:
    """A small file that another process polls: state, cell (from 1), cells, started (seconds since the epoch)."""

    def __init__(self, path: Path | None):
        self.path = path
        self.content: dict[str, Any] = {"started": time.time()}

    def write(self, **changes: Any) -> None:
        """Change fields of the file in one step, so that a reader never sees half of it."""
        self.content.update(changes)
        if self.path:
            fresh = self.path.with_suffix(".new")
            fresh.write_text(json.dumps(self.content))
            fresh.replace(self.path)


def main(arguments: list[str]) -> int:
    """Do the run that a request file asks for."""
    content = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    project, progress = Project(Path(content.pop("root"))), content.pop("progress", None)
    request = Request(**content)
    failure = execute(project, request, Progress(Path(progress) if progress else None))
    if failure:
        print(f"{request.name}: {failure.kind}: {failure.message}\n{failure.trace}", file=sys.stderr)
    return 1 if failure else 0


def execute(project: Project, request: Request, progress: Progress) -> RunFailure | None:
    """Do one run unless it is there already; return what went wrong, after leaving it in the failures folder too."""
    locks = project.build / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{request.name}.lock"):
        progress.write(state="running", cell=0, cells=0)
        root = scratch_root(project, request)
        for left in root.iterdir() if root.is_dir() else ():  # by a process that was killed: its lock is free again
            shutil.rmtree(left, ignore_errors=True)
        folder = scratch_folder(project, request)
        key = None
        try:
            card = load_card(project, request.slug)
            key = _key(project, card, request)
            target = run_path(project, request.slug, request.profile, request.seed, key)
            if request.force or not read_run(target):
                _run(project, card, request, key, folder / "run", progress)
                publish(folder / "run", target, folder / "replaced")
            clear_failure(project, request)
            _prune(project, request, key, folder)
            progress.write(state="done", seconds=time.time() - progress.content["started"])
            return None
        except Exception as error:
            failure = as_failure(error)
            publish_failure(project, request, failure, key, folder / "run" / "chapter.ipynb")
            progress.write(state="failed", kind=failure.kind, message=failure.message)
            return failure
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def as_failure(error: Exception) -> RunFailure:
    """Return the failure for an exception outside of the chapter's cells."""
    if isinstance(error, RunFailure):
        return error
    if isinstance(error, CompanionError):
        return RunFailure("set-up", str(error))
    return RunFailure("exception", f"{type(error).__name__}: {error}", None, traceback.format_exc())


def _key(project: Project, card: Card, request: Request) -> Key:
    kind = {"overrides": request.overrides, "portable": request.portable}
    return run_key(project, card, request.profile, request.seed, **kind)


def _run(project: Project, card: Card, request: Request, key: Key, folder: Path, progress: Progress) -> None:
    """Execute the chapter in `folder` and leave there everything that belongs to a finished run."""
    profile = card.profile(request.profile)
    parameters = resolve_parameters(project, card, request.profile, request.overrides)
    parameters |= {"profile": request.profile, "seed": request.seed}
    folder.mkdir()
    record = records.start_record(project, request, key)
    set_environment(folder, project.root, project.store, {"chapter": request.slug, **parameters}, request.portable)

    def on_cell(cell: int, cells: int) -> None:
        progress.write(state="running", cell=cell, cells=cells)

    started = time.monotonic()
    chapter = chapter_path(project, request.slug)
    run_chapter(chapter, parameters, folder, profile.cell_timeout, profile.memory_mb, on_cell)
    seconds = time.monotonic() - started
    _complete_results(folder)
    environment = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").unlink()
    record = records.finish_record(record, environment, seconds, peak_memory_mb())
    (folder / "record.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _check_unchanged(project, request, key)


def _complete_results(folder: Path) -> None:
    """Add to results.json the number of the cell that shows each figure and table; check that every file is there."""
    import nbformat

    path = folder / "results.json"
    if not path.is_file():
        raise RunFailure("exception", "the chapter did not write results.json; call recorder.finish() in its last cell")
    results = json.loads(path.read_text(encoding="utf-8"))
    for cell in nbformat.read(folder / "chapter.ipynb", as_version=4).cells:
        for output in cell.get("outputs", []):
            shown = output.get("metadata", {}).get("companion", {})
            for kind, name in shown.items():
                results[f"{kind}s"][name]["cell"] = cell_number(cell)
    for entry in [*results["figures"].values(), *results["tables"].values()]:
        for name in (entry["file"], entry.get("arrays")):
            if name and not (folder / name).is_file():
                raise RunFailure("exception", f"{name} stands in results.json but was not written")
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_unchanged(project: Project, request: Request, key: Key) -> None:
    """Refuse a run whose sources changed meanwhile: nobody can say which version of them it ran."""
    sources.forget()
    now = _key(project, load_card(project, request.slug), request)
    if now.digest != key.digest:
        reasons = "; ".join(difference(key.parts, now.parts))
        advice = "Call again to run it from the new state."
        raise RunFailure("sources changed", f"while the run was going, {reasons}. {advice}")


def _prune(project: Project, request: Request, key: Key, folder: Path) -> None:
    """Remove the runs that this one replaces; runs with other overrides or portability stay."""
    for number, run in enumerate(all_runs(project, request.slug, request.profile, request.seed)):
        if run.path.name != key.digest and same_kind(run, request.overrides, request.portable):
            run.path.rename(folder / f"pruned-{number}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
