"""Keep requirements.lock and environment.yml in step with pyproject.toml."""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from companion.errors import CompanionError
from companion.press.project import Project

PYTHON = "3.11"  # the version that environment.yml gives to conda and Binder


def declared(pyproject: Path) -> list[Requirement]:
    """Return the dependencies that pyproject.toml declares, in its order."""
    return [Requirement(line) for line in tomllib.loads(pyproject.read_text())["project"]["dependencies"]]


def locked(lock: Path, python: str = PYTHON) -> dict[str, str]:
    """Return {name: version} of the lock's entries that apply to CPython `python` on 64-bit Linux."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
    }
    pins = {}
    entry = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(?: ; ([^\\\n]+))?", re.M)
    for name, version, marker in entry.findall(lock.read_text()):
        if not marker or Marker(marker.strip()).evaluate(environment):
            pins[canonicalize_name(name)] = version
    return pins


def environment_text(pyproject: Path, lock: Path) -> str:
    """Return environment.yml: the declared dependencies at the versions of the lock."""
    pins = locked(lock)
    lines = [f"      - {r.name}=={pins[canonicalize_name(r.name)]}" for r in declared(pyproject)]
    return "\n".join(
        [
            "# Written by `make lock` from pyproject.toml and requirements.lock; conda and Binder read it.",
            "name: companion",
            "channels: [conda-forge, nodefaults]",
            "dependencies:",
            f"  - python={PYTHON}",
            "  - pip",
            "  - pip:",
            *lines,
            "      - -e .",
            "",
        ]
    )


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `companion lock`."""
    parser.set_defaults(function=run)


def run(options: argparse.Namespace) -> int:
    """Resolve pyproject.toml into requirements.lock, with hashes and without addresses; rewrite environment.yml."""
    root = Project.find().root
    fresh = root / "requirements.lock.new"
    fresh.write_text((root / "requirements.lock").read_text())  # present pins are kept where they still fit
    command = ["uv", "pip", "compile", "pyproject.toml", "--universal", "--generate-hashes", "--no-header", "--quiet"]
    command[0] = str(Path(sys.executable).with_name("uv"))
    if subprocess.run([*command, "--output-file", fresh.name], cwd=root, stdout=subprocess.DEVNULL).returncode:
        fresh.unlink()
        raise CompanionError(
            "uv could not resolve pyproject.toml's dependencies (its reason is above); nothing changed."
        )
    fresh.replace(root / "requirements.lock")
    (root / "environment.yml").write_text(environment_text(root / "pyproject.toml", root / "requirements.lock"))
    return 0
