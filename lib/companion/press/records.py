"""The run record: what was run, from which sources, on what machine, for how long."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from companion.press.keys import Key
from companion.press.project import Project
from companion.press.runs import Request

COUNTED = ("lib", "notebooks", "data_manifests", "requirements.lock")
"""What an uncommitted change in makes a run's commit "dirty"."""


def start_record(project: Project, request: Request, key: Key) -> dict[str, Any]:
    """Return the record of a run that begins now; `finish_record` completes it."""
    commit, dirty = git_state(project.root)
    return {
        "chapter": request.slug,
        "profile": request.profile,
        "seed": request.seed,
        "key": key.digest,
        "parameters": key.parts["parameters"],
        "overrides": request.overrides,
        "portable": request.portable,
        "commit": commit,
        "dirty": dirty,
        "started": now(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "parts": key.parts,
    }


def finish_record(
    record: dict[str, Any], environment: Mapping[str, Any], seconds: float, peak_memory_mb: float
) -> dict[str, Any]:
    """Return a record with what the kernel said about itself (torch, device, threads), wall time and peak memory."""
    return {
        **record,
        **environment,
        "wall_seconds": round(seconds, 2),
        "peak_memory_mb": round(peak_memory_mb),
        "parts": record["parts"],
    }


def now() -> str:
    """Return the present moment in ISO 8601, UTC, with microseconds so that runs sort by it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def git_state(root: Path) -> tuple[str | None, bool | None]:
    """Return (commit, whether counted files differ from it), or (None, None) outside of a git checkout."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    return commit, bool(_git(root, "status", "--porcelain", "--", *COUNTED))


def _git(root: Path, *arguments: str) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # reading the state must not disturb a commit under way
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
