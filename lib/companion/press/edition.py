"""What there is to print: the fourteen papers, and for those that have a chapter its runs, failures and verdicts."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import yaml

from companion.errors import CompanionError
from companion.press.card import PROFILES, Card, load_card
from companion.press.claims import Verdict, verdicts
from companion.press.project import Project
from companion.press.runs import Recorded, Request, Run, find_run, read_failure, recorded_runs


@dataclass(frozen=True)
class Paper:
    """One of the fourteen papers, as book/papers.yml names it."""

    slug: str
    title: str
    key: str
    part: str


@dataclass(frozen=True)
class Chapter:
    """A paper that has a chapter. `error` says why its card or code cannot be used; then there is nothing else.

    runs: the fresh ones, by profile; recorded: the committed ones, by profile; failures: of the printed profile's
    seeds that have no fresh run; verdicts: by profile, in the card's order of claims.
    """

    paper: Paper
    card: Card | None = None
    error: str = ""
    runs: dict[str, tuple[Run, ...]] = field(default_factory=dict)
    recorded: dict[str, tuple[Recorded, ...]] = field(default_factory=dict)
    failures: tuple[dict[str, Any], ...] = ()
    verdicts: dict[str, tuple[Verdict, ...]] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        return self.paper.slug

    @property
    def title(self) -> str:
        return self.card.title if self.card else self.paper.title

    @property
    def page(self) -> str:
        """The name of its page, without ending."""
        return f"chapters/{self.slug}"


@dataclass(frozen=True)
class Edition:
    """Everything that one printing of the book shows."""

    project: Project
    profile: str
    portable: bool
    parts: dict[str, str]
    papers: tuple[Paper, ...]
    chapters: dict[str, Chapter]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The content of _config.yml."""
        return yaml.safe_load((self.project.root / "_config.yml").read_text(encoding="utf-8"))

    @property
    def repository(self) -> str:
        """The address of the repository, without a slash at its end."""
        return self.settings["repository"]["url"].rstrip("/")

    @property
    def branch(self) -> str:
        return self.settings["repository"]["branch"]

    @property
    def profiles(self) -> list[str]:
        """The profiles for which verdicts are shown: the printed one, then those with fresh or recorded runs."""
        others = {name for one in self.chapters.values() for name in one.verdicts} - {self.profile, "smoke"}
        return [self.profile, *sorted(others, key=lambda name: (*PROFILES, name).index(name))]

    def printed(self, chapter: Chapter) -> Run | None:
        """Return the run that the chapter's page shows: the fresh one with the first seed of the card that has one."""
        runs = {run.seed: run for run in chapter.runs.get(self.profile, ())}
        return next((runs[seed] for seed in (*self.seeds(chapter), *runs) if seed in runs), None)

    def seeds(self, chapter: Chapter) -> tuple[int, ...]:
        """Return the seeds that the card wants to be run afresh at the printed profile."""
        known = chapter.card.profiles if chapter.card else {}
        return known[self.profile].seeds if self.profile in known else ()


def read_papers(project: Project) -> tuple[dict[str, str], tuple[Paper, ...]]:
    """Return the titles of the parts by number, and the papers in the book's order, from book/papers.yml."""
    path = project.book / "papers.yml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    parts = {part["id"]: part["title"] for part in content["parts"]}
    papers = [Paper(**paper, part=part["id"]) for part in content["parts"] for paper in part["papers"]]
    if len({paper.slug for paper in papers}) != len(papers):
        raise CompanionError(f"{path}: a slug stands twice; expected a different slug for each paper.")
    return parts, tuple(papers)


def read_edition(project: Project, profile: str, portable: bool = False) -> Edition:
    """Return what a printing at `profile` shows; a chapter that cannot be read becomes one with an error."""
    parts, papers = read_papers(project)
    known = {paper.slug: paper for paper in papers}
    chapters = {}
    for slug in project.slugs():
        paper = known.get(slug) or Paper(slug, slug, "", "")
        try:
            chapters[slug] = _read_chapter(project, paper, profile, portable)
        except CompanionError as error:
            chapters[slug] = Chapter(paper, error=str(error))
    place = {paper.slug: index for index, paper in enumerate(papers)}
    ordered = dict(sorted(chapters.items(), key=lambda item: (place.get(item[0], len(place)), item[0])))
    return Edition(project, profile, portable, parts, papers, ordered)


def _read_chapter(project: Project, paper: Paper, profile: str, portable: bool) -> Chapter:
    card = load_card(project, paper.slug)
    runs, recorded, found = {}, {}, {}
    for name in card.profiles:
        fresh = [find_run(project, card, name, seed, portable=portable) for seed in _seeds(project, card, name)]
        runs[name] = tuple(run for run in fresh if run)
        recorded[name] = tuple(recorded_runs(project, card, name))
        if runs[name] or recorded[name] or name == profile:
            found[name] = tuple(verdicts(card, [*runs[name], *recorded[name]]))
    have = {run.seed for run in runs.get(profile, ())}
    wanted = card.profiles[profile].seeds if profile in card.profiles else ()
    due = [Request(paper.slug, profile, seed, {}, portable) for seed in wanted if seed not in have]
    tries = [read_failure(project, request) for request in due]
    return Chapter(paper, card, "", runs, recorded, tuple(one for one in tries if one), found)


def _seeds(project: Project, card: Card, profile: str) -> list[int]:
    """Return the seeds of which runs may exist: the card's, then any other that somebody ran."""
    folders = (project.runs / profile / card.slug).glob("seed-*")
    others = sorted(int(path.name[5:]) for path in folders if path.name[5:].isdecimal())
    return list(dict.fromkeys([*card.profiles[profile].seeds, *others]))
