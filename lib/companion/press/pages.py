"""Puts the sources of the book together: prose, woven chapters, generated pages, table of contents, files of runs."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nbformat
import yaml

from companion.data import manifest
from companion.errors import CompanionError
from companion.press import apidoc, dashboard, galleries, ledger, markup
from companion.press.edition import Chapter, Edition
from companion.press.weave import MARKER, failed_page, run_folder, weave
from companion.press.zoo_table import base_models_html

PARTS_HERE = "press: chapters"
UNTOUCHED = ("_toc.yml", "papers.yml")  # files of book/ that are read here and not copied


def compose(edition: Edition) -> tuple[dict[str, str | Path], list[str]]:
    """Return ({path in the book's sources: text, or the file to copy}, problems of chapters that cannot be woven)."""
    library = apidoc.read_library(edition.project.root / "lib" / "companion")
    files, problems = _chapters(edition, library)
    files |= _prose(edition)
    files |= _library_pages(edition, library)
    files |= {f"galleries/{path.name}": path for path in galleries.pictures(edition.project)}
    files["_toc.yml"] = table_of_contents(edition, library)
    return files, problems


def _chapters(edition: Edition, library: apidoc.Library) -> tuple[dict[str, str | Path], list[str]]:
    files: dict[str, str | Path] = {}
    problems = []
    for chapter in edition.chapters.values():
        page, run = chapter, edition.printed(chapter)
        try:
            if run:
                notebook = nbformat.writes(weave(edition, chapter, library))
                files[f"{chapter.page}.ipynb"] = notebook
                target = run_folder(edition, chapter, run)
                found = [path for path in sorted(run.path.rglob("*")) if path.is_file()]
                files |= {f"{target}/{path.relative_to(run.path).as_posix()}": path for path in found}
                for name in ("chapter.py", "paper.yml"):
                    files[f"sources/{chapter.slug}/{name}"] = edition.project.notebooks / chapter.slug / name
        except CompanionError as error:
            page, run = Chapter(chapter.paper, chapter.card, error=str(error)), None
            problems.append(f"{chapter.slug}: {error}")
        if run is None:
            files[f"{chapter.page}.md"] = failed_page(edition, page)
            for failure in page.failures:
                if failure["notebook"]:
                    target = f"failures/{chapter.slug}/seed-{failure['seed']}/chapter.ipynb"
                    files[target] = Path(failure["notebook"])
    return files, problems


def _prose(edition: Edition) -> dict[str, str | Path]:
    files: dict[str, str | Path] = {}
    for path in sorted(edition.project.book.rglob("*")):
        name = path.relative_to(edition.project.book).as_posix()
        if path.is_dir() or name in UNTOUCHED:
            continue
        files[name] = _fill(edition, path, name) if path.suffix == ".md" else path
    return files


def _fill(edition: Edition, path: Path, name: str) -> str:
    """Return a prose page with its markers replaced."""
    makers: dict[str, Callable[[], str]] = {
        "summary": lambda: markup.raw(ledger.summary_html(edition)),
        "coming": lambda: markup.raw(ledger.coming_html(edition)),
        "ledger": lambda: markup.raw(ledger.ledger_html(edition)),
        "status": lambda: markup.raw(dashboard.status_html(edition)),
        "badges": lambda: markup.raw(dashboard.badges_html(edition)),
        "times": lambda: markup.raw(markup.render("times.html.j2", rows=_times(edition))),
        "hub": lambda: markup.raw(_hub(edition)),
        "data-table": lambda: markup.raw(markup.render("data-table.html.j2", rows=_data_rows(edition))),
        "base-models": lambda: markup.raw(base_models_html(edition)),
        "gallery": lambda: markup.raw(galleries.figures(edition.project)),
    }

    def replace(match: re.Match) -> str:
        if match.group(1) not in makers:
            raise CompanionError(
                f"book/{name}: unknown marker <!-- press:{match.group(1)} -->; expected one of {', '.join(makers)}."
            )
        return makers[match.group(1)]()

    return MARKER.sub(replace, path.read_text(encoding="utf-8"))


def _times(edition: Edition) -> list[dict[str, Any]]:
    """Return how long each chapter took at each profile, from fresh runs or else recorded ones."""
    rows = []
    for chapter in edition.chapters.values():
        for profile in chapter.card.profiles if chapter.card else ():
            found = [*chapter.runs.get(profile, ()), *chapter.recorded.get(profile, ())]
            if found:
                seconds = [run.record["wall_seconds"] for run in found]
                rows.append({"chapter": chapter, "profile": profile, "seconds": seconds, "record": found[0].record})
    return rows


def _hub(edition: Edition) -> str:
    slugs = list(edition.chapters)
    return markup.render("hub.html.j2", repository=edition.repository, branch=edition.branch, slugs=slugs)


def _data_rows(edition: Edition) -> list[dict[str, Any]]:
    """Return one row a data set: its manifest, how many bytes it is, and the chapters that use it."""
    rows = []
    for path in sorted(edition.project.manifests.glob("*.yml")):
        described = manifest.read_manifest(path)
        users = [c for c in edition.chapters.values() if c.card and _uses(c, described.name)]
        files = [file for layout in described.layouts for file in {**layout.files, **layout.downloads}.values()]
        images = sum(split.images or 0 for split in described.splits.values() if split.files)
        row = {"data": described, "chapters": users, "images": images, "verified": all(file.verified for file in files)}
        rows.append(row)
    order = ("generated", "embedded", "real")
    return sorted(rows, key=lambda row: (order.index(row["data"].kind), row["data"].name))


def _uses(chapter: Chapter, name: str) -> bool:
    return any(name in profile.data for profile in chapter.card.profiles.values())


def _library_pages(edition: Edition, library: apidoc.Library) -> dict[str, str]:
    used = _used_in(edition)
    source = f"{edition.repository}/blob/{edition.branch}"
    pages = {f"{module.page}.md": apidoc.module_page(module, used, source) for module in library.spelled_out()}
    return {**{f"{name}.md": page for name, page in apidoc.folder_pages(library).items()}, **pages}


def _used_in(edition: Edition) -> Mapping[str, list[tuple[str, str]]]:
    """Return the chapters (page, title) that use each member of the library, by dotted name."""
    used: dict[str, list[tuple[str, str]]] = {}
    for chapter in edition.chapters.values():
        run = edition.printed(chapter)
        if run is None:
            continue
        path = edition.project.notebooks / chapter.slug / "chapter.py"
        page = f"{chapter.page}.ipynb"
        for name in apidoc.used_names(_code(path)):
            used.setdefault(name, []).append((page, chapter.title))
    return used


def _code(path: Path) -> str:
    from companion.press.convert import code, read_cells

    return code(read_cells(path))


def table_of_contents(edition: Edition, library: apidoc.Library) -> str:
    """Return _toc.yml: the one of book/, with the chapters that exist by part, and the library's pages."""
    toc = yaml.safe_load((edition.project.book / "_toc.yml").read_text(encoding="utf-8"))
    parts = []
    for part in toc["parts"]:
        if part["caption"] == PARTS_HERE:
            parts += _parts(edition)
        else:
            parts.append(part)
    for entry in [chapter for part in parts for chapter in part["chapters"]]:
        if entry["file"] == "api/index":
            entry["sections"] = _library_sections(library)
    return yaml.safe_dump({**toc, "parts": parts}, sort_keys=False, allow_unicode=True)


def _library_sections(library: apidoc.Library) -> list[dict[str, Any]]:
    sections: dict[str, dict[str, Any]] = {}
    for module in library.modules:
        sections.setdefault(module.folder, {"file": apidoc.folder_page(module.folder), "sections": []})
    for module in library.spelled_out():
        sections[module.folder]["sections"].append({"file": module.page})
    return [section if section["sections"] else {"file": section["file"]} for section in sections.values()]


def _parts(edition: Edition) -> list[dict[str, Any]]:
    titles = {**edition.parts, "": "Further papers"}
    found = []
    for number, title in titles.items():
        chapters = [{"file": c.page} for c in edition.chapters.values() if c.paper.part == number]
        if chapters:
            caption = f"{number} {title}".strip()
            found.append({"caption": caption, "numbered": 1, "chapters": chapters})  # chapters, not their sections
    return found


def titles(files: Mapping[str, str | Path]) -> list[str]:
    """Return the first heading of every page: what other pages' menus show."""
    found = []
    for name in sorted(files):
        text = files[name]
        if isinstance(text, str) and name.endswith(".md"):
            found.append(f"{name}: {next((line for line in text.splitlines() if line.startswith('# ')), '')}")
        elif isinstance(text, str) and name.endswith(".ipynb"):
            cells = json.loads(text)["cells"]
            source = "".join(cells[0]["source"]) if cells else ""
            found.append(f"{name}: {source.splitlines()[0] if source else ''}")
    return found
