"""A project of one or two toy chapters in a folder of its own, with its own copy of the library to edit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

import companion

LIBRARY = Path(companion.__path__[0])

HEADER = """\
# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # A toy chapter

# %% tags=["parameters"]
profile = "laptop"
seed = 0
size = 3

# %%
from companion.press.notebook import begin
from companion.toys.reached import double

recorder = begin("SLUG", profile, seed)
"""

BODY = """\
# %%
recorder.number("toy.double", double(size) + seed, n=size)
recorder.number("toy.third", 1 / 3)

"""

LAST = """\
# %%
recorder.say(f"double: {double(size)}")

# %%
recorder.finish()
"""

TOYS = {
    "__init__": '"""Toys."""\n',
    "reached": '"""Reached."""\n\nfrom companion.toys.indirect import TWO\n\n\ndef double(x):\n    """Double."""\n'
    "    return TWO * x\n",
    "indirect": '"""Reached through another module."""\n\nTWO = 2\n',
    "unreached": '"""Reached by nobody."""\n\nTHREE = 3\n',
    "world": '"""Draws a data set."""\n\n\ndef load(context, split):\n    """Draw it."""\n',
}

MANIFEST = {
    "name": "toy_world",
    "title": "A toy world",
    "kind": "generated",
    "description": "Nothing.",
    "licence": {"name": "MIT"},
    "citation": "Nobody.",
    "classes": ["a", "b"],
    "splits": {"train": {"note": "all"}},
    "loader": "companion.toys.world:load",
}

LOCK = """\
first==1.0 \\
    --hash=sha256:00
    # via toy
second==2.0 ; python_version < '3.12' \\
    --hash=sha256:11
"""


def card(slug: str) -> dict:
    """Return the content of a toy chapter's paper.yml."""
    profile = {"seeds": [0], "data": ["toy_world"], "cell_timeout": 60, "memory_mb": 1000, "parameters": {"size": 3}}
    return {
        "slug": slug,
        "part": "I",
        "order": 1,
        "title": "A toy",
        "bibliography": {"key": "toy", "title": "A toy", "authors": ["Nobody"], "venue": "Nowhere", "year": 2024},
        "summary": "A toy.",
        "profiles": {"smoke": {**profile, "parameters": {"size": 2}}, "laptop": {**profile, "recorded_seeds": [1]}},
        "claims": [
            {
                "id": "double",
                "statement": "Twice.",
                "where": "abstract",
                "paper_value": None,
                "tests": [{"name": "double", "expression": "toy.double > 1"}],
            }
        ],
        "artifacts": [],
        "deviations": [],
    }


class Miniature:
    """A toy project at `root`; `companion` runs its commands with the copy of the library in `root`/lib."""

    def __init__(self, root: Path):
        self.root = root
        shutil.copytree(LIBRARY, root / "lib" / "companion")
        for name, text in TOYS.items():
            self.write(f"lib/companion/toys/{name}.py", text)
        self.write("_config.yml", "title: toy\n")
        self.write("requirements.lock", LOCK)
        self.write("data_manifests/toy_world.yml", yaml.safe_dump(MANIFEST))
        (root / "notebooks").mkdir()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("COMPANION_")},
            "PYTHONPATH": str(root / "lib"),
            "COMPANION_ROOT": str(root),
            "COLUMNS": "200",
        }

    def write(self, name: str, text: str) -> Path:
        """Write a file of the project."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a piece of text that stands once in a file."""
        text = (self.root / name).read_text()
        assert text.count(old) == 1, (name, old, text)
        self.write(name, text.replace(old, new))

    def chapter(self, slug: str, body: str = BODY, **changes) -> None:
        """Add a chapter; `changes` replace fields of its card."""
        self.write(f"notebooks/{slug}/chapter.py", (HEADER + "\n" + body + LAST).replace("SLUG", slug))
        self.write(f"notebooks/{slug}/paper.yml", yaml.safe_dump({**card(slug), **changes}))

    def limits(self, slug: str, profile: str = "laptop", **changes) -> None:
        """Change fields of a profile."""
        path = self.root / "notebooks" / slug / "paper.yml"
        content = yaml.safe_load(path.read_text())
        content["profiles"][profile].update(changes)
        path.write_text(yaml.safe_dump(content))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "companion.press.cli", *arguments]

    def companion(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def runs(self) -> dict[str, Path]:
        """Return the finished runs as {"<profile>/<slug>/seed-<n>": folder}; each seed has one."""
        folders = sorted((self.root / "build" / "runs").glob("*/*/*/*"))
        return {"/".join(folder.parts[-4:-1]): folder for folder in folders}

    def failure(self, slug: str, profile: str = "laptop", seed: int = 0) -> dict | None:
        path = self.root / "build" / "failures" / profile / slug / f"seed-{seed}" / "failure.json"
        return json.loads(path.read_text()) if path.is_file() else None
