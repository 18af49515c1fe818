"""The key of a run: a digest over everything that decides its results, kept in parts so that a change can be named.

- cells: the code cells of chapter.py, the parameters cell among them; not prose, comments, docstrings, formatting.
- modules: every companion module that the cells and the data's loaders reach by imports, in the same way; no others.
- parameters: the values the notebook runs with; not the time-out and the memory limit.
- data: digests of the manifests that the profile names; not their comments and prose.
- lock: names and versions in requirements.lock; not its comments and hashes.
- portable: whether the vector width is pinned.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

import companion
from companion import sources
from companion.data import manifest
from companion.errors import CompanionError
from companion.press.card import Card, chapter_path
from companion.press.card_schema import near
from companion.press.convert import code, parameters, read_cells
from companion.press.project import Project


@dataclass(frozen=True)
class Key:
    """What a run depends on: `parts` is plain JSON, `digest` names the run's folder."""

    digest: str
    parts: dict[str, Any]

    def difference(self, other: Mapping[str, Any]) -> list[str]:
        """Return what changed since a run whose key had the parts `other`, one readable reason an entry."""
        return difference(other, self.parts)


def run_key(
    project: Project,
    card: Card,
    profile: str,
    seed: int,
    *,
    overrides: Mapping[str, Any] | None = None,
    portable: bool = False,
) -> Key:
    """Return today's key of one run.

    overrides: values for names of the parameters cell that replace the profile's (`--set name=value`).
    Raises CompanionError for an unknown profile or parameter and for a chapter, manifest or lock that cannot be read.
    """
    chapter = _read_chapter(project, card.slug)
    chosen = card.profile(profile)
    data = {name: _data_set(name) for name in sorted(chosen.data)}
    roots = set(chapter.imports) | {loader for loader, _ in data.values()}
    parts = {
        "cells": list(chapter.digests),
        "modules": {name: sources.module_digest(name) for name in sorted(sources.reach(sorted(roots)))},
        "parameters": resolve_parameters(project, card, profile, overrides),
        "data": {name: digest for name, (_, digest) in data.items()},
        "lock": lock_digest(project.lock),
        "portable": bool(portable),
    }
    parts = json.loads(_canonical(parts))
    return Key(_digest({"chapter": card.slug, "profile": profile, "seed": seed, **parts}), parts)


def resolve_parameters(
    project: Project, card: Card, profile: str, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the value of every name of the parameters cell but `profile` and `seed`, in a run of `profile`.

    Raises CompanionError if the profile or the overrides give a name that the parameters cell does not have.
    """
    chapter = _read_chapter(project, card.slug)
    given = {
        f"profile {profile} in notebooks/{card.slug}/paper.yml": card.profile(profile).parameters,
        "--set": overrides or {},
    }
    values = {name: value for name, value in json.loads(chapter.defaults).items() if name not in ("profile", "seed")}
    for source, mapping in given.items():
        for name in mapping:
            if name not in values:
                raise CompanionError(
                    f"unknown parameter {name!r} of chapter {card.slug} ({source}): expected one of "
                    f"{', '.join(values) or '(none)'}{near(name, values)}. Parameters are the names that the cell "
                    f'tagged "parameters" of notebooks/{card.slug}/chapter.py assigns; the press sets profile and seed.'
                )
        values.update(mapping)
    return values


def parse_override(text: str) -> tuple[str, Any]:
    """Return (name, value) of `name=value`; the value is read as YAML, so 3, 0.5, true, [1, 2] and words work."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise CompanionError(f"--set {text}: expected name=value, such as --set train_size=2000")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise CompanionError(
            f"--set {text}: expected a YAML value after =, such as 3, 0.5, true, [1, 2] or a word"
        ) from None


def lock_digest(lock: Path) -> str:
    """Return the digest of the names, versions and conditions in a lock file, without its comments and hashes."""
    if not lock.is_file():
        raise CompanionError(f"{lock} is missing; expected the lock with the versions of all packages (make lock)")
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(?:\s*;\s*([^\\\n]+))?", lock.read_text(), re.M)
    return _digest(sorted([name.lower(), version, marker.strip()] for name, version, marker in pins))


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what changed from the parts of one key to those of another, one readable reason an entry."""
    reasons = []
    old_cells, new_cells = before.get("cells", []), now.get("cells", [])
    if old_cells != new_cells:
        reasons.append(_cells_reason(old_cells, new_cells))
    for name, old, new in _changed(before.get("modules", {}), now.get("modules", {})):
        verb = "is newly used" if old is None else "is no longer used" if new is None else "changed"
        reasons.append(f"{module_path(name)} {verb}")
    for name, old, new in _changed(before.get("parameters", {}), now.get("parameters", {})):
        reasons += _parameter_reasons(name, old, new)
    for name, old, new in _changed(before.get("data", {}), now.get("data", {})):
        verb = "is newly used" if old is None else "is no longer used" if new is None else "changed"
        reasons.append(f"data set {name} {verb}")
    if before.get("lock") != now.get("lock"):
        reasons.append("requirements.lock changed (names or versions of packages)")
    if before.get("portable") != now.get("portable"):
        reasons.append(f"portable {before.get('portable')} -> {now.get('portable')}")
    return reasons


def _parameter_reasons(name: str, old: Any, new: Any) -> list[str]:
    """Say how a parameter changed; of a mapping, only its entries that did."""
    if isinstance(old, dict) and isinstance(new, dict):
        inner = _changed(old, new)
        return [line for key, was, now in inner for line in _parameter_reasons(f"{name}.{key}", was, now)]
    return [f"parameter {name} {_value(old)} -> {_value(new)}"]


def module_path(name: str) -> str:
    """Return where a companion module lies in the checkout, such as lib/companion/defenses/strip.py."""
    inner = Path(*name.split(".")[1:])
    package = (Path(companion.__path__[0]) / inner).is_dir()
    return (Path("lib/companion") / (inner / "__init__.py" if package else inner.with_suffix(".py"))).as_posix()


@dataclass(frozen=True)
class _Chapter:
    digests: tuple[str, ...]
    imports: frozenset[str]
    defaults: str  # JSON of {parameter: value}


def _read_chapter(project: Project, slug: str) -> _Chapter:
    path = chapter_path(project, slug)
    stamp = path.stat().st_mtime_ns if path.is_file() else 0
    return _parse_chapter(path, stamp)


@lru_cache(maxsize=64)
def _parse_chapter(path: Path, stamp: int) -> _Chapter:
    name = "/".join(path.parts[-3:])
    cells = read_cells(path)
    defaults = {parameter.name: parameter.value for parameter in parameters(cells, name).values()}
    digests = []
    for cell in cells:
        if cell.kind == "code":
            try:
                digests.append(sources.code_digest(cell.source)[:16])
            except CompanionError as error:
                raise CompanionError(f"{name}, the cell at line {cell.first_line}: {error}") from None
    return _Chapter(tuple(digests), sources.imported_modules(code(cells)), _canonical(defaults))


def _data_set(name: str) -> tuple[str, str]:
    """Return (loader's module, digest) of a data set, without loading PyTorch where the manifest says it all."""
    found = manifest.load_manifest(name)
    files = [file for layout in found.layouts for file in (*layout.files.values(), *layout.downloads.values())]
    if found.loader and all(file.verified for file in files):
        return found.loader.split(":")[0], manifest.digest(found)
    from companion.data import catalogue  # a second or more

    return catalogue.loader_module(name), catalogue.digest(name)


def _canonical(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CompanionError(
            f"a parameter is no plain value ({error}): expected numbers, text, truth values, lists"
        ) from None


def _digest(value: Any) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:32]


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = sorted({*old, *new})
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _cells_reason(old: list[str], new: list[str]) -> str:
    if len(old) != len(new):
        return f"chapter.py has {len(new)} code cells instead of {len(old)}"
    changed = [str(index) for index, (a, b) in enumerate(zip(old, new, strict=True), 1) if a != b]
    return f"code cell{'s' if len(changed) > 1 else ''} {', '.join(changed)} of chapter.py changed"


def _value(value: Any) -> str:
    return "(none)" if value is None else json.dumps(value)
