"""Weaves a chapter's page: today's prose with the outputs of the fresh run, each figure and table with its record.

The run's key covers the code, so prose may be newer than the run; if the code is not the same, that is a build error.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from companion import sources
from companion.errors import CompanionError
from companion.press import markup
from companion.press.apidoc import Library, used_names
from companion.press.card import EVIDENCE, chapter_path
from companion.press.claims import claim_expressions
from companion.press.convert import Cell, read_cells
from companion.press.edition import Chapter, Edition
from companion.press.keys import run_key
from companion.press.ledger import badge_html, claims_html
from companion.press.lines import SourceLines
from companion.press.runs import Run

MARKER = re.compile(r"^<!-- press:([a-z-]+) -->[ \t]*$", re.M)
LONG_CELL = 8
"""A code cell with more lines than this is folded; the tag `show-input` leaves it open."""
FINISH = re.compile(r"\w+\.finish\(\)")  # a cell that nobody needs to read
INJECTED = "injected-parameters"  # papermill's tag for the cell that it adds
ROOT = "../"  # from chapters/<slug>.html to the top of the book
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
PIXEL_RATIO = 1.5  # figures have 144 dots an inch, a screen's CSS pixel is 1/96 inch


def weave(edition: Edition, chapter: Chapter, library: Library) -> nbformat.NotebookNode:
    """Return the notebook that the book prints for a chapter which has a fresh run.

    Raises CompanionError if the run is not today's or its cells are not the chapter's, if a marker is unknown, or if
    the card speaks of a figure or table that the run does not have.
    """
    run = edition.printed(chapter)
    check_fresh(edition, chapter, run)
    cells = read_cells(chapter_path(edition.project, chapter.slug))
    executed = match_cells(cells, nbformat.read(run.notebook, as_version=4), chapter.slug)
    weaver = _Weaver(edition, chapter, run, library, cells)
    woven = [piece for cell in cells for piece in weaver.pieces(cell, executed)]
    notebook = nbformat.v4.new_notebook(cells=[*woven, weaver.foot()])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"woven-{index}"  # stable, so that an unchanged page is an unchanged file
    return notebook


def run_folder(edition: Edition, chapter: Chapter, run: Run) -> str:
    """Return where the printed book keeps the files of a run."""
    return f"runs/{edition.profile}/{chapter.slug}/seed-{run.seed}"


def check_fresh(edition: Edition, chapter: Chapter, run: Run) -> None:
    """Raise CompanionError unless the run's folder and its record both carry today's key."""
    key = run_key(edition.project, chapter.card, edition.profile, run.seed, portable=edition.portable)
    if not (run.path.name == run.record["key"] == key.digest):
        raise CompanionError(
            f"chapter {chapter.slug}: the run {run.path} was about to be printed, but its key is not today's "
            f"({key.digest}). Nothing stale is printed; call again, and the chapter is run from today's sources."
        )


def match_cells(cells: list[Cell], executed: nbformat.NotebookNode, slug: str) -> dict[int, nbformat.NotebookNode]:
    """Return the executed code cell for each code cell of the chapter, by its number.

    Code cells are matched in their order, which prose written between them does not change, and their code must be the
    same up to comments and formatting, as in the run's key.
    """
    code = [cell for cell in cells if cell.kind == "code"]
    ran = [cell for cell in executed.cells if cell.cell_type == "code" and not _is_injected(cell)]
    for index, cell in enumerate(code):
        found = ran[index] if index < len(ran) else None
        if found is None or sources.code_digest(found.source) != sources.code_digest(cell.source):
            raise CompanionError(
                f"notebooks/{slug}/chapter.py, line {cell.first_line}: the code of this cell is not what the run "
                f"executed as its code cell {index + 1}. Remove the run's folder under build/runs and call again."
            )
    return {cell.index: found for cell, found in zip(code, ran, strict=False)}


def _is_injected(cell: nbformat.NotebookNode) -> bool:
    return INJECTED in cell.metadata.get("tags", [])


class _Weaver:
    """Holds what every piece of one page needs."""

    def __init__(self, edition: Edition, chapter: Chapter, run: Run, library: Library, cells: list[Cell]):
        self.edition, self.chapter, self.run, self.library, self.cells = edition, chapter, run, library, cells
        self.slug = chapter.slug
        self.base = ROOT + run_folder(edition, chapter, run)
        self.lines = SourceLines(edition.project, edition.repository, edition.branch, run.record)

    def pieces(self, cell: Cell, executed: Mapping[int, nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
        """Return the cells of the page that one cell of the chapter becomes."""
        if cell.kind != "code":
            return [nbformat.v4.new_markdown_cell(MARKER.sub(self._marker, cell.source))]
        woven = nbformat.v4.new_code_cell(cell.source, metadata={"tags": _tags(cell)})
        after = []
        for output in executed[cell.index].outputs:
            shown = output.get("metadata", {}).get("companion", {})
            for kind, name in shown.items():
                after.append(nbformat.v4.new_markdown_cell(self._exhibit(kind, name, cell, output)))
            if not shown and not _is_echo(output):
                woven.outputs.append(output)
        return [woven, *after]

    def _exhibit(self, kind: str, name: str, cell: Cell, output: Mapping[str, Any]) -> str:
        """Return a figure or a table of the run as MyST, with the fold that says how it was made."""
        item = self.run.results[f"{kind}s"][name]
        made = markup.render(
            "made.html.j2",
            kind=kind,
            name=name,
            item=item,
            slug=self.slug,
            base=self.base,
            source=self.lines.of(cell),
            record=self.run.record,
            repository=self.edition.repository,
        )
        body = self._figure(name, item) if kind == "figure" else self._table(name, item, output)
        return f"{body}\n\n{markup.raw(made)}\n"

    def _figure(self, name: str, item: Mapping[str, Any]) -> str:
        width = round(_png_width(self.run.path / item["file"]) / PIXEL_RATIO)
        options = {"name": f"fig-{self.slug}-{name}", "alt": _one_line(item["alt"])}
        options |= {"width": f"{width}px", "class": "exhibit"}
        lines = [f":{option}: {value}" for option, value in options.items()]
        source = f"/{run_folder(self.edition, self.chapter, self.run)}/{item['file']}"
        return "\n".join([f"``````{{figure}} {source}", *lines, "", _one_line(item["caption"]), "``````"])

    def _table(self, name: str, item: Mapping[str, Any], output: Mapping[str, Any]) -> str:
        table = output["data"]["text/html"]
        if isinstance(table, list):
            table = "".join(table)
        caption = f"<caption>{markup.inline(_one_line(item['caption']))}</caption>"
        table = re.sub(r"<style.*?</style>", "", table, flags=re.S)
        table = re.sub(r"<table[^>]*>", lambda _: f'<table class="table">{caption}', table, count=1)
        label = _one_line(item.get("alt") or item["caption"]).replace('"', "&quot;")
        box = f'<div class="table-box" tabindex="0" role="region" aria-label="{label}">{table}</div>'
        return f":::::::{{div}} exhibit-table\n:name: tab-{self.slug}-{name}\n\n{markup.raw(box)}\n:::::::"

    def _marker(self, match: re.Match) -> str:
        makers = {
            "badge": lambda: badge_html(self.edition, self.chapter, ROOT),
            "claims": lambda: claims_html(self.edition, self.chapter),
            "artifacts": self._artifacts,
            "deviations": lambda: markup.render("deviations.html.j2", deviations=self.chapter.card.deviations),
            "paper-values": self._paper_values,
            "record": self._record,
        }
        name = match.group(1)
        if name not in makers:
            raise CompanionError(
                f"notebooks/{self.slug}/chapter.py: unknown marker <!-- press:{name} -->; "
                f"expected one of {', '.join(makers)}."
            )
        return markup.raw(makers[name]())

    def _artifacts(self) -> str:
        anchors = {name: f"fig-{self.slug}-{name}" for name in self.run.results["figures"]}
        anchors |= {name: f"tab-{self.slug}-{name}" for name in self.run.results["tables"]}
        for item in self.chapter.card.artifacts:
            if item.by and item.by not in anchors:
                raise CompanionError(
                    f"notebooks/{self.slug}/paper.yml: artifact {item.id} is regenerated by {item.by!r}, but the run "
                    f"recorded only {', '.join(sorted(anchors)) or 'nothing'}. Correct `by` or give `why_not`."
                )
        return markup.render("artifacts.html.j2", artifacts=self.chapter.card.artifacts, anchors=anchors)

    def _paper_values(self) -> str:
        rows = []
        for claim in self.chapter.card.claims:
            names = [metric for _, expression in claim_expressions(claim) for metric in expression.metrics]
            known = [name for name in dict.fromkeys(names) if name in self.run.results["metrics"]]
            metrics = [{"id": name, "said": metric_said(self.run.results["metrics"][name])} for name in known]
            rows.append({"claim": claim, "metrics": metrics})
        return markup.render(
            "paper-values.html.j2", rows=rows, EVIDENCE=EVIDENCE, profile=self.edition.profile, seed=self.run.seed
        )

    def _record(self) -> str:
        return markup.render("record.html.j2", record=self.run.record, repository=self.edition.repository)

    def foot(self) -> nbformat.NotebookNode:
        """Return the end of the page: downloads, record, runs behind the verdicts, library functions used."""
        html = markup.render(
            "foot.html.j2",
            slug=self.slug,
            base=self.base,
            record=self.run.record,
            rows=evidence_rows(self.edition, self.chapter),
            repository=self.edition.repository,
        )
        code = "\n\n".join(cell.source for cell in self.cells if cell.kind == "code")
        used = [self.library.link(name) for name in used_names(code) if name in self.library]
        functions = f"**Library functions used:** {', '.join(used)}" if used else ""
        return nbformat.v4.new_markdown_cell(f"{markup.raw(html)}\n\n{functions}\n")


def evidence_rows(edition: Edition, chapter: Chapter) -> list[dict[str, Any]]:
    """Return the runs that a chapter's verdicts rest on: fresh ones, then recorded ones of other seeds."""
    rows = []
    for profile in edition.profiles:
        fresh = chapter.runs.get(profile, ())
        rows += [{"record": run.record, "state": "fresh", "reasons": ()} for run in fresh]
        for run in chapter.recorded.get(profile, ()):
            if run.seed not in {one.seed for one in fresh}:
                state = "stale" if run.stale else "recorded"
                rows.append({"record": run.record, "state": state, "reasons": run.reasons})
    return rows


def failed_page(edition: Edition, chapter: Chapter) -> str:
    """Return the page, in MyST, of a chapter without a fresh run: what failed, where, and how far it came."""
    try:
        cells = {cell.index: cell for cell in read_cells(chapter_path(edition.project, chapter.slug))}
    except CompanionError:
        cells = {}
    failures = [{**one, "traceback": ANSI.sub("", one.get("traceback") or "")} for one in chapter.failures]
    told = {"error": chapter.error, "failures": failures, "cells": cells}
    html = markup.render("failed.html.j2", slug=chapter.slug, profile=edition.profile, **told)
    state = "failed" if chapter.error or failures else "not run yet"
    summary = chapter.card.summary if chapter.card else ""
    return f"# {chapter.title}\n\n**This chapter's run: {state}.** {summary}\n\n{markup.raw(html)}\n"


def metric_said(metric: Mapping[str, Any]) -> str:
    """Return a metric with unit, interval and n, such as "98.4 % [97.4, 99.0], n = 1000"."""
    said = f"{markup.number(metric['value'])} {metric['unit']}".strip()
    if metric["ci"]:
        said += " [{}, {}]".format(*map(markup.number, metric["ci"]))
    return said + (f", n = {metric['n']}" if metric["n"] else "")


def _is_echo(output: Mapping[str, Any]) -> bool:
    """Whether an output is only the plain text of a cell's last value, such as a legend's address in memory."""
    return output["output_type"] == "execute_result" and set(output["data"]) == {"text/plain"}


def _tags(cell: Cell) -> list[str]:
    """Return the tags of a code cell on the page; a long cell is folded unless it says otherwise."""
    if FINISH.fullmatch(cell.source.strip()):
        return ["remove-cell"]
    tags = [tag for tag in cell.tags if tag not in ("parameters", "show-input")]
    chosen = {"hide-input", "hide-cell", "remove-input", "remove-cell", "hide-output"} & set(tags)
    long = cell.source.count("\n") >= LONG_CELL or "parameters" in cell.tags
    if long and not chosen and "show-input" not in cell.tags:
        tags.append("hide-input")
    return tags


def _png_width(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(24)[16:20], "big")


def _one_line(text: str) -> str:
    return " ".join(text.split())
