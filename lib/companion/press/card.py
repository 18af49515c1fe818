"""The card of a paper (notebooks/<slug>/paper.yml): what it is, what it claims and how its chapter is run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from companion.errors import CompanionError
from companion.press.card_schema import EVIDENCE as EVIDENCE
from companion.press.card_schema import near, schema_problems
from companion.press.project import Project

PROFILES = ("smoke", "laptop", "real", "paper")
"""The usual profiles, smallest first; a card may leave some out."""


@dataclass(frozen=True)
class Profile:
    """One scale at which a chapter is run."""

    name: str
    seeds: tuple[int, ...]
    """Seeds that `companion build` runs afresh."""
    recorded_seeds: tuple[int, ...]
    """Further seeds, of which results/<profile>/<slug>/seed-<n>.json is committed."""
    data: tuple[str, ...]
    """Names of data manifests; their digests belong to the key of a run."""
    cell_timeout: int
    """Seconds one cell may take."""
    memory_mb: int
    """Megabytes of private memory the kernel may take."""
    parameters: dict[str, Any]
    """Values for the names of the chapter's parameters cell."""


@dataclass(frozen=True)
class ClaimTest:
    """One part of a claim: an expression over metric ids that is true or false in each seed."""

    name: str
    expression: str


@dataclass(frozen=True)
class PaperValue:
    """What the paper reports, and how we know (a key of `card_schema.EVIDENCE`)."""

    text: str
    evidence: str


@dataclass(frozen=True)
class Claim:
    """One claim of the paper in our own words, with the test that decides it; `why_not` where no test is possible."""

    id: str
    statement: str
    where: str
    paper_value: PaperValue | None
    tests: tuple[ClaimTest, ...]
    tolerance: float | None
    minimum_seeds: int
    why_not: str | None


@dataclass(frozen=True)
class Artifact:
    """A table or figure of the paper: `by` names the chapter's figure or table that regenerates it, or `why_not`."""

    id: str
    kind: str
    title: str
    where: str
    by: str | None
    why_not: str | None


@dataclass(frozen=True)
class Deviation:
    """One thing that the chapter does differently from the paper, and the reason."""

    topic: str
    text: str
    reason: str


@dataclass(frozen=True)
class Tolerance:
    """Numeric gate for the metric ids that match `pattern` (as in file names); the first match of a card wins."""

    pattern: str
    absolute: float
    relative: float


@dataclass(frozen=True)
class Card:
    """A valid paper.yml."""

    slug: str
    part: str
    order: int
    title: str
    bibliography: dict[str, Any]
    summary: str
    profiles: dict[str, Profile]
    claims: tuple[Claim, ...]
    artifacts: tuple[Artifact, ...]
    deviations: tuple[Deviation, ...]
    tolerances: tuple[Tolerance, ...]

    def profile(self, name: str) -> Profile:
        """Return the profile `name`; raise CompanionError that lists the profiles of this card."""
        if name not in self.profiles:
            raise CompanionError(
                f"unknown profile {name!r} for chapter {self.slug}: expected one of {', '.join(self.profiles)}"
                f"{near(name, self.profiles)}. Profiles stand in notebooks/{self.slug}/paper.yml."
            )
        return self.profiles[name]


def card_path(project: Project, slug: str) -> Path:
    """Return where the card of a chapter lies."""
    return project.notebooks / slug / "paper.yml"


def chapter_path(project: Project, slug: str) -> Path:
    """Return where the notebook of a chapter lies (jupytext percent format)."""
    return project.notebooks / slug / "chapter.py"


def load_card(project: Project, slug: str) -> Card:
    """Return the card of the chapter `slug`; raise CompanionError that lists everything wrong with it."""
    path = card_path(project, slug)
    if not path.is_file():
        known = project.slugs()
        raise CompanionError(
            f"unknown chapter {slug!r}: expected one of {', '.join(known) or '(none yet)'}{near(slug, known)}. "
            "A chapter is a folder notebooks/<slug> with chapter.py and paper.yml."
        )
    try:
        name = path.relative_to(project.root).as_posix()
    except ValueError:
        name = str(path)
    return read_card(path.read_bytes(), name, slug)


def read_card(content: bytes, name: str, slug: str) -> Card:
    """Return the card written in `content`; `name` stands in errors for the file, `slug` is its folder's name."""
    found = _parse(content, name)
    problems = schema_problems(found) or _further_problems(found, slug)
    if problems:
        raise CompanionError(f"{name} is not a valid card:\n" + "\n".join(f"  {problem}" for problem in problems))
    return _build(found)


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, which YAML would silently resolve to the last one."""

    def construct_mapping(self, node, deep=False):
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice (first in line {seen[key]})", key_node.start_mark
                )
            seen[key if isinstance(key, str) else repr(key)] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _parse(content: bytes, name: str) -> Any:
    try:
        return yaml.load(content.decode("utf-8"), Loader=_StrictLoader)  # a subclass of SafeLoader
    except UnicodeDecodeError as error:
        raise CompanionError(f"{name}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise CompanionError(
            f"{name}, line {mark.line + 1}, column {mark.column + 1}: {error.problem}; expected valid YAML"
        ) from None
    except yaml.YAMLError as error:
        raise CompanionError(f"{name}: {error}; expected valid YAML") from None


def _further_problems(found: dict, slug: str) -> list[str]:
    """Return what a schema cannot say: names that must agree, be unique or exclude each other."""
    problems = []
    if found["slug"] != slug:
        problems.append(f"slug: found {found['slug']!r}; expected {slug!r}, the name of its folder")
    for name, profile in found["profiles"].items():
        both = set(profile["seeds"]) & set(profile.get("recorded_seeds", []))
        if both:
            problems.append(f"profiles.{name}.recorded_seeds: {sorted(both)} stand in seeds too; expected other seeds")
    for kind in ("claims", "artifacts"):
        ids = [item["id"] for item in found[kind]]
        for index, item in enumerate(found[kind]):
            if item["id"] in ids[:index]:
                problems.append(f"{kind}[{index}].id: {item['id']!r} stands twice; expected different ids")
    for index, claim in enumerate(found["claims"]):
        if bool(claim["tests"]) == ("why_not" in claim):
            problems.append(f"claims[{index}]: ({claim['id']}) expected either tests or, with tests: [], why_not")
    for index, artifact in enumerate(found["artifacts"]):
        if ("by" in artifact) == ("why_not" in artifact):
            problems.append(f"artifacts[{index}]: ({artifact['id']}) expected either by or why_not, and not both")
    return problems


def _build(found: dict) -> Card:
    return Card(
        slug=found["slug"],
        part=found["part"],
        order=found["order"],
        title=found["title"],
        bibliography=found["bibliography"],
        summary=found["summary"].strip(),
        profiles={name: _profile(name, value) for name, value in found["profiles"].items()},
        claims=tuple(map(_claim, found["claims"])),
        artifacts=tuple(Artifact(**{"by": None, "why_not": None, **artifact}) for artifact in found["artifacts"]),
        deviations=tuple(Deviation(**deviation) for deviation in found["deviations"]),
        tolerances=tuple(
            Tolerance(pattern, float(value.get("absolute", 0)), float(value.get("relative", 0)))
            for pattern, value in found.get("tolerances", {}).items()
        ),
    )


def _profile(name: str, found: dict) -> Profile:
    return Profile(
        name=name,
        seeds=tuple(found["seeds"]),
        recorded_seeds=tuple(found.get("recorded_seeds", [])),
        data=tuple(found["data"]),
        cell_timeout=found["cell_timeout"],
        memory_mb=found["memory_mb"],
        parameters=found["parameters"],
    )


def _claim(found: dict) -> Claim:
    value = found["paper_value"]
    return Claim(
        id=found["id"],
        statement=found["statement"],
        where=found["where"],
        paper_value=PaperValue(**value) if value else None,
        tests=tuple(ClaimTest(**test) for test in found["tests"]),
        tolerance=found.get("tolerance"),
        minimum_seeds=found.get("minimum_seeds", 1),
        why_not=found.get("why_not"),
    )
