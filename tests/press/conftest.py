"""Fixtures of the press's tests: toy projects and a process that tells today's keys."""

import json
import subprocess
import sys

import pytest
from miniature import Miniature

KEY_SERVER = """
import json, sys
from companion import sources
from companion.errors import CompanionError
from companion.press.card import load_card
from companion.press.keys import run_key
from companion.press.project import Project
project = Project.find()
for line in sys.stdin:
    asked = json.loads(line)
    sources.forget()
    try:
        key = run_key(project, load_card(project, asked.pop("slug")), **asked)
        print(json.dumps({"digest": key.digest, "parts": key.parts}), flush=True)
    except CompanionError as error:
        print(json.dumps({"error": str(error)}), flush=True)
"""


@pytest.fixture
def miniature(tmp_path) -> Miniature:
    """Return an empty toy project."""
    return Miniature(tmp_path)


@pytest.fixture
def keys(miniature):
    """Return a function (slug, profile=..., seed=..., ...) -> key of the toy project as its files stand now."""
    process = subprocess.Popen(
        [sys.executable, "-c", KEY_SERVER],
        cwd=miniature.root,
        env=miniature.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask(slug: str, profile: str = "laptop", seed: int = 0, **more) -> dict:
        process.stdin.write(json.dumps({"slug": slug, "profile": profile, "seed": seed, **more}) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield ask
    process.stdin.close()
    process.wait(timeout=10)
