"""A chapter as cells: from jupytext's percent format to a notebook, with stable cell ids and known source lines."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from companion.errors import CompanionError

PARAMETERS_TAG = "parameters"
_MARKER = re.compile(r"^\s*#\s*%%%*(?:\s+(.*))?$")  # as in jupytext


@dataclass(frozen=True)
class Cell:
    """One cell of chapter.py: its number in the chapter (from 0), its id in notebooks, and its lines (from 1)."""

    index: int
    kind: str
    source: str
    tags: tuple[str, ...]
    first_line: int
    last_line: int

    @property
    def id(self) -> str:
        return f"cell-{self.index}"


@dataclass(frozen=True)
class Parameter:
    """A name of the parameters cell with its default value."""

    name: str
    value: Any
    line: int


def read_cells(path: Path) -> list[Cell]:
    """Return the cells of a chapter.py in jupytext's percent format, without loading jupytext, which takes a second.

    `to_notebook`, through which every run goes, checks that jupytext sees the same cells.
    Raises CompanionError if the file is missing or not UTF-8.
    """
    lines = _text(path).splitlines()
    starts = [number for number, line in enumerate(lines) if _MARKER.match(line)]
    cells = []
    for index, (start, end) in enumerate(zip(starts, [*starts[1:], len(lines)], strict=True)):
        options = _MARKER.match(lines[start])[1] or ""
        kind = "markdown" if "[markdown]" in options or "[md]" in options else "raw" if "[raw]" in options else "code"
        tags = re.search(r"tags\s*=\s*\[([^\]]*)\]", options)
        tags = tuple(re.findall(r"[\"']([^\"']+)[\"']", tags[1])) if tags else ()
        body = lines[start + 1 : end]
        if kind != "code":
            body = [re.sub(r"^# ?", "", line) for line in body]
        cells.append(Cell(index, kind, "\n".join(body).rstrip(), tags, start + 1, end))
    return cells


def to_notebook(path: Path):
    """Return a chapter.py as an nbformat notebook whose cell ids are `cell-0`, `cell-1`, ... in every conversion.

    Raises CompanionError if jupytext cannot read the file, or sees other code cells in it than `read_cells` does.
    """
    import jupytext

    try:
        notebook = jupytext.reads(_text(path), fmt="py:percent")
    except Exception as error:  # jupytext raises many kinds, a YAML header's among them
        raise CompanionError(f"{_name(path)}: jupytext cannot read it ({error}); expected percent format") from None
    _check_same(path, notebook.cells)
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = type(notebook.metadata)(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    return notebook


def _check_same(path: Path, theirs: list) -> None:
    """Refuse a chapter in which jupytext sees other cells than we do, so that a key never covers the wrong code."""
    ours = read_cells(path)
    for index in range(max(len(ours), len(theirs))):
        our = ours[index] if index < len(ours) else None
        their = theirs[index] if index < len(theirs) else None
        if (
            our
            and their
            and our.kind == their.cell_type
            and (our.kind != "code" or our.source == their.source.rstrip())
        ):
            continue
        line = our.first_line if our else ours[-1].last_line if ours else 1
        raise CompanionError(
            f"{_name(path)}, line {line}: jupytext sees another cell here than its marker begins. Begin every cell, "
            "the first one too, with a line `# %%` or `# %% [markdown]`, have no such line inside a cell, and use no "
            "magics."
        )


def code(cells: list[Cell]) -> str:
    """Return all code cells of a chapter as one text."""
    return "\n\n".join(cell.source for cell in cells if cell.kind == "code")


def parameters(cells: list[Cell], name: str) -> dict[str, Parameter]:
    """Return the parameters of a chapter: what its cell tagged `parameters` assigns.

    name: of the file, for errors. Raises CompanionError unless there is exactly one such cell, it holds nothing but
    `name = literal` lines, and `profile` and `seed` are among them.
    """
    tagged = [cell for cell in cells if PARAMETERS_TAG in cell.tags and cell.kind == "code"]
    if len(tagged) != 1:
        raise CompanionError(
            f'{name}: {len(tagged)} cells carry the tag "parameters"; expected one, begun by `# %% tags=["parameters"]`'
        )
    cell = tagged[0]
    found = {}
    for statement in _parse(cell, name).body:
        line = cell.first_line + statement.lineno
        try:
            (target,) = statement.targets if isinstance(statement, ast.Assign) else (statement.target,)
            found[target.id] = Parameter(target.id, ast.literal_eval(statement.value), line)
        except (AttributeError, ValueError, TypeError):
            raise CompanionError(
                f"{name}, line {line}: {ast.unparse(statement)!r} stands in the parameters cell; "
                "expected only lines `name = value` with a literal value"
            ) from None
    missing = [word for word in ("profile", "seed") if word not in found]
    if missing:
        raise CompanionError(
            f"{name}, line {cell.first_line}: the parameters cell does not set {' and '.join(missing)}"
        )
    return found


def _parse(cell: Cell, name: str) -> ast.Module:
    try:
        return ast.parse(cell.source)
    except SyntaxError as error:
        line = cell.first_line + (error.lineno or 1)
        raise CompanionError(f"{name}, line {line}: {error.msg}; expected Python") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CompanionError(f"{_name(path)} is missing; expected the chapter in jupytext's percent format") from None
    except UnicodeDecodeError as error:
        raise CompanionError(f"{_name(path)}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def _name(path: Path) -> str:
    return "/".join(path.parts[-3:])
