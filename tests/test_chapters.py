"""Every chapter at its smoke profile: it runs, passes lint, and all gates find what its committed reference holds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SLUGS = sorted(path.parent.name for path in ROOT.glob("notebooks/*/paper.yml"))
BUILD = os.environ.get("COMPANION_TEST_BUILD") or ROOT / "build" / "test"  # as tests/book, so that a run is done once


def companion(*arguments: str) -> subprocess.CompletedProcess:
    """Run a command of the press over this checkout, with the tests' own build folder."""
    environment = {**os.environ, "COMPANION_BUILD": str(BUILD), "COMPANION_ROOT": str(ROOT)}
    command = [sys.executable, "-m", "companion.press.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800)


def test_there_are_chapters():
    assert "belt" in SLUGS


@pytest.mark.parametrize("slug", SLUGS)
def test_a_chapter_passes_its_gates(slug):
    done = companion("check", slug)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "1 of 1 chapters passed" in done.stdout


def test_library_and_notebooks_pass_lint():
    done = companion("lint")
    assert done.returncode == 0, done.stdout
