"""Do the runs that are missing: Snakemake schedules them, as many at once as asked, each in a process of its own.

`ensure_runs` is what `companion run` and `companion build` call:

>>> outcome = ensure_runs(project, [Request("belt", "laptop", 0)])  # doctest: +SKIP
>>> outcome.exit_code  # doctest: +SKIP
0
"""

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from companion.errors import CompanionError
from companion.press.card import load_card
from companion.press.failures import clear_failure, describe_failure, publish_failure
from companion.press.kernel import RunFailure
from companion.press.plan import Plan, Planned, make_plan
from companion.press.project import Project
from companion.press.runs import Request, read_failure

POLL_SECONDS = 0.1
LOGS_KEPT = 20


@dataclass
class Outcome:
    """What came of `ensure_runs`: requests that ran, that were there already, and that failed with failure.json."""

    ran: list[Request] = field(default_factory=list)
    reused: list[Request] = field(default_factory=list)
    failed: list[tuple[Request, dict[str, Any]]] = field(default_factory=list)
    seconds: float = 0.0
    log: Path | None = None

    @property
    def exit_code(self) -> int:
        return 1 if self.failed else 0


def ensure_runs(
    project: Project,
    requests: Iterable[Request],
    jobs: int | None = None,
    portable: bool | None = None,
    console=None,
    arguments: Sequence[str] = (),
) -> Outcome:
    """Do the runs that have no up-to-date result; print the plan, the progress and a summary; return what came of it.

    requests: the runs wanted; jobs: how many at once (default: the cores this process may use); portable: replaces
    `portable` of every request unless None; console: a rich Console (default: one on standard output); arguments:
    handed to Snakemake, such as ("--executor", "slurm").
    A run that fails, or a card that cannot be read, leaves build/failures/...; the other runs go on.
    """
    from companion.press import progress

    console = console or progress.make_console()
    jobs = jobs or cores()
    if portable is not None:
        requests = [replace(request, portable=portable) for request in requests]
    plan = make_plan(project, requests)
    progress.print_plan(console, plan, jobs)
    outcome = carry_out(project, plan, jobs, progress.Display(console, plan, jobs), arguments)
    progress.print_outcome(console, plan, outcome)
    return outcome


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def carry_out(project: Project, plan: Plan, jobs: int, display, arguments: Sequence[str] = ()) -> Outcome:
    """Do the missing runs of a plan. display: shows states as they change, see `progress.Display`."""
    started = time.monotonic()
    outcome = Outcome()
    for entry in plan.entries:
        if entry.fresh:
            outcome.reused.append(entry.request)
            clear_failure(project, entry.request)  # a kill can fall between a run's success and this
        elif entry.failure:
            outcome.failed.append((entry.request, describe_failure(entry.request, entry.failure, None)))
            if _belongs_to_page(project, entry.request):
                publish_failure(project, entry.request, entry.failure, None)
    if plan.missing:
        _sweep(project)
        folder = project.build / "tmp" / f"schedule-{uuid.uuid4().hex[:12]}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_suffix(".lock")
        with FileLock(lock):  # free again when this process ends, however it ends
            states = _run_snakemake(project, plan, jobs, folder, display, arguments, outcome)
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)
        for entry in plan.missing:
            _settle(project, entry, states.get(entry.request.name, {}), outcome)
    outcome.seconds = time.monotonic() - started
    return outcome


def _belongs_to_page(project: Project, request: Request) -> bool:
    """Return whether a run that cannot begin is the chapter's fault, and not a slip of whoever typed the command."""
    if request.slug not in project.slugs() or request.overrides:
        return False
    try:
        return request.profile in load_card(project, request.slug).profiles
    except CompanionError:
        return True


def _settle(project: Project, entry: Planned, state: dict[str, Any], outcome: Outcome) -> None:
    """Book a run as done, or as failed with what it left, which may be nothing at all."""
    if state.get("state") == "done":
        outcome.ran.append(entry.request)
        return
    failure = read_failure(project, entry.request) if state.get("state") == "failed" else None
    if failure is None:
        message = (
            "the process that did the run ended without a word, or was never started. The system may have killed it "
            f"(for its memory?); the scheduler's log is logs/{outcome.log.name} in the build folder."
        )
        interrupted = RunFailure("interrupted", message)
        publish_failure(project, entry.request, interrupted, entry.key)
        failure = describe_failure(entry.request, interrupted, entry.key)
    outcome.failed.append((entry.request, failure))


def _sweep(project: Project) -> None:
    """Remove the scheduler folders of commands that were killed: nobody holds their locks any more."""
    for lock in (project.build / "tmp").glob("schedule-*.lock"):
        try:
            with FileLock(lock, timeout=0):
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
        except Timeout:
            continue


def _write_plan(project: Project, plan: Plan, folder: Path) -> None:
    import psutil

    for name in ("requests", "progress", "done", "logs"):
        (folder / name).mkdir(parents=True)
    machine = psutil.virtual_memory().total // 2**20
    jobs = []
    for rank, entry in enumerate(plan.missing):
        request, name = entry.request, entry.request.name
        content = {**vars(request), "root": str(project.root), "progress": str(folder / "progress" / f"{name}.json")}
        (folder / "requests" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        jobs.append(
            {
                "rule": name.replace(".", "_").replace("-", "_"),
                "marker": f"done/{name}",
                "request": str(folder / "requests" / f"{name}.json"),
                "log": str(folder / "logs" / f"{name}.log"),
                "priority": len(plan.missing) - rank,
                "memory_mb": min(entry.memory_mb, machine),
                "minutes": max(10, round((entry.seconds or entry.cell_timeout) * 3 / 60)),
            }
        )
    (folder / "plan.json").write_text(json.dumps({"jobs": jobs, "machine_mb": machine}), encoding="utf-8")


def _command(folder: Path, jobs: int, arguments: Sequence[str]) -> list[str]:
    machine = json.loads((folder / "plan.json").read_text())["machine_mb"]
    remote = any(argument.startswith("--executor") for argument in arguments)
    places = ["--jobs", str(jobs)] if remote else ["--cores", str(jobs), "--resources", f"mem_mb={machine}"]
    return [
        *(sys.executable, "-m", "snakemake"),
        *("--snakefile", str(Path(__file__).with_name("Snakefile"))),
        *("--directory", str(folder)),
        *("--config", f"plan={folder / 'plan.json'}"),
        *places,
        # every call has a folder of its own, so there is nothing to lock, to remember or to complete
        *("--keep-going", "--nolock", "--drop-metadata", "--scheduler", "greedy", "--nocolor"),
        *arguments,
    ]


def _run_snakemake(
    project: Project, plan: Plan, jobs: int, folder: Path, display, arguments: Sequence[str], outcome: Outcome
) -> dict[str, dict]:
    """Let Snakemake do the missing runs, showing how far they are; return the last state of each by name."""
    _write_plan(project, plan, folder)
    logs = project.build / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for old in sorted(logs.glob("*.log"))[:-LOGS_KEPT]:
        old.unlink(missing_ok=True)
    outcome.log = logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{folder.name}.log"
    names = [entry.request.name for entry in plan.missing]
    with outcome.log.open("w") as log, display:
        process = subprocess.Popen(_command(folder, jobs, arguments), stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        try:
            while process.poll() is None:
                display.update(_states(folder, names))
                time.sleep(POLL_SECONDS)
        except BaseException:
            _stop(process)
            raise
        states = _states(folder, names)
        display.update(states)
    with outcome.log.open("a") as log:
        for name in names:
            said = folder / "logs" / f"{name}.log"
            if said.is_file():
                log.write(f"\n===== {name} =====\n{said.read_text(errors='replace')}")
    if process.returncode and not any(state.get("state") == "failed" for state in states.values()):
        display.warn(f"Snakemake ended with status {process.returncode}; the end of {outcome.log}:", _tail(outcome.log))
    return states


def _states(folder: Path, names: Sequence[str]) -> dict[str, dict]:
    states = {}
    for name in names:
        path = folder / "progress" / f"{name}.json"
        if path.is_file():
            states[name] = json.loads(path.read_text())
    return states


def _stop(process: subprocess.Popen) -> None:
    """End Snakemake and everything below it; finished runs stay, unfinished ones leave nothing behind."""
    import psutil

    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        below = []
    for child in [process, *below]:
        try:
            child.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(below, timeout=10)
    for child in alive:
        child.kill()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
