"""The whole command killed at random moments: what can be seen is always whole, and in the end everything is there."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

from miniature import Miniature

KILLS = 20
LONGEST_WAIT = 60  # seconds until a killed command must have begun a run, on a busy machine

STORED = """\
# %%
import torch
from companion.store import default_store

recorder = begin("stored", profile, seed)
shape = (200, 1000 + size)
stored = default_store().get_or_train(
    {"size": size, "seed": seed},
    lambda: ({"weight": torch.ones(shape) * seed}, {}),
    modules=["companion.toys.reached"],
    data="none",
)
recorder.number("toy.sum", stored.state["weight"].sum())

"""


def check_runs(project: Miniature) -> None:
    """Check that every visible run is complete and readable."""
    for folder in project.runs().values():
        results = json.loads((folder / "results.json").read_text())
        record = json.loads((folder / "record.json").read_text())
        assert record["key"] == folder.name
        assert (results["chapter"], results["seed"]) == (record["chapter"], record["seed"])
        assert json.loads((folder / "chapter.ipynb").read_text())["cells"]
        for shown in [*results["figures"].values(), *results["tables"].values()]:
            assert (folder / shown["file"]).stat().st_size
    for path in (project.root / "build" / "failures").glob("*/*/*"):
        assert json.loads((path / "failure.json").read_text())["kind"]


def check_store(project: Miniature) -> int:
    """Check that every visible model is complete; return how many there are."""
    entries = [path for path in (project.root / "build" / "store").glob("[!.]*") if path.is_dir()]
    for folder in entries:
        entry = json.loads((folder / "entry.json").read_text())
        assert hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest() == entry["weights_sha256"]
    return len(entries)


def kill_at_random(project: Miniature, rng: random.Random, arguments: list[str]) -> str:
    """Start a command and kill all of it at a random moment; return where it was: "done", "start" or "runs"."""
    process = subprocess.Popen(
        project.command("run", *arguments),
        cwd=project.root,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    phase = "start" if rng.random() < 0.2 else "runs"
    if phase == "runs":  # most kills shall hit while chapters run, however slow the machine is
        patience = time.monotonic() + LONGEST_WAIT
        while not has_begun(project.root) and process.poll() is None and time.monotonic() < patience:
            time.sleep(0.02)
    time.sleep(rng.uniform(0, 3.5))
    finished = process.poll() is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return "done" if finished else phase


def has_begun(root: Path) -> bool:
    """Return whether a run of the present command writes its notebook (what a killed one left is swept before)."""
    moments = [path.stat().st_mtime for path in root.glob("build/tmp/*/*/run/chapter.ipynb")]
    return any(time.time() - moment < 1 for moment in moments)


def test_a_command_killed_at_any_moment_leaves_nothing_half_done(miniature):
    miniature.chapter("toy")
    miniature.chapter("stored", STORED)
    rng = random.Random(7)
    arguments = ["--seeds", "0-1", "--jobs", "2"]
    size, phases = 3, []
    while sum(phase != "done" for phase in phases) < KILLS:
        phases.append(kill_at_random(miniature, rng, arguments))
        check_runs(miniature)
        check_store(miniature)
        if phases[-1] == "done" or len(miniature.runs()) == 4:
            size += 1  # nothing would be left to kill: make every run stale
            for slug in ("toy", "stored"):
                miniature.limits(slug, parameters={"size": size})
    assert "runs" in phases
    done = miniature.companion("run", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    check_runs(miniature)
    assert check_store(miniature) >= 2
    runs = miniature.runs()
    assert set(runs) == {f"laptop/{slug}/seed-{seed}" for slug in ("toy", "stored") for seed in (0, 1)}
    for slug, metric, expected in (("toy", "toy.double", 2 * size + 1), ("stored", "toy.sum", 200 * (1000 + size))):
        results = json.loads((runs[f"laptop/{slug}/seed-1"] / "results.json").read_text())
        assert results["metrics"][metric]["value"] == expected
    assert miniature.failure("toy") is None
    assert not [path for path in (miniature.root / "build" / "tmp").glob("*/*") if path.is_dir()]
    assert not list((miniature.root / "build" / "tmp").glob("schedule-*"))
    assert "4 runs up to date" in miniature.companion("run", *arguments).stdout
