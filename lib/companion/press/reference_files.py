"""What is committed of a smoke run so that later runs can be held against it, and what moved between two of these.

The folder results/smoke/<slug> holds results.json, record.json, verdicts.json, arrays/<name>.npz, tables/<name>.csv,
figures/<name>.png (reduced) and chapter.ipynb (code cells, and the outputs of canonical cells).
"""

import difflib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
import numpy as np

from companion.errors import CompanionError
from companion.press.card import Card, Tolerance
from companion.press.claims import verdicts
from companion.press.gate_figures import compare_arrays, image_rms, reduce_image
from companion.press.gate_numbers import compare_metrics
from companion.press.gate_text import canonical_cells, reference_notebook
from companion.press.gate_verdicts import compare_verdicts, verdicts_json
from companion.press.gates import Row, table
from companion.press.project import Project
from companion.press.runs import Run

LARGEST = 2_000_000  # bytes of one chapter's reference
EXACT = (Tolerance("*", 0.0, 0.0),)


def reference_folder(project: Project, slug: str) -> Path:
    """Return where the reference of a chapter is committed."""
    return project.results / "smoke" / slug


def digest(folder: Path) -> str:
    """Return the digest of every file of a reference."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(folder).as_posix()}\n{path.stat().st_size}\n".encode() + path.read_bytes())
    return found.hexdigest()[:32]


def write_reference(run: Run, card: Card, folder: Path) -> None:
    """Write the reference that `run` makes into the new folder `folder`.

    Raises CompanionError if the chapter has no canonical cell, or if the reference is too large to commit.
    """
    for kind in ("arrays", "tables"):
        if (run.path / kind).is_dir():
            shutil.copytree(run.path / kind, folder / kind)
    for name in run.results["figures"]:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        reduce_image(run.path / "figures" / f"{name}.png").save(folder / "figures" / f"{name}.png", optimize=True)
    notebook = reference_notebook(nbformat.read(run.notebook, as_version=4))
    if not canonical_cells(notebook):
        raise CompanionError(
            f"chapter {card.slug} has no cell tagged nbval-check-output; tag one that prints verdict lines or rounded "
            "numbers with recorder.say(), so that the text gate has something to check. If you just did, run it again "
            "with --force: a tag is not part of a run's key."
        )
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / "chapter.ipynb")
    write_json(folder / "results.json", without_cells(run.results))
    write_json(folder / "record.json", run.record)
    write_json(folder / "verdicts.json", verdicts_json(verdicts(card, [run])))
    _refuse_if_large(folder, card.slug)


def without_cells(results: Mapping) -> dict:
    """Return results without the cell numbers, which every edit of prose may shift."""
    plain = json.loads(json.dumps(results))
    for entry in [*plain["figures"].values(), *plain["tables"].values()]:
        entry.pop("cell", None)
    return plain


def write_json(path: Path, content: object) -> None:
    """Write JSON as the committed files have it: indented, so that differences are readable."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def replace_json(path: Path, content: object) -> None:
    """Write JSON in one step, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        new = Path(file.name)
    try:
        write_json(new, content)
        new.chmod(0o644)  # a temporary file is private
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _refuse_if_large(folder: Path, slug: str) -> None:
    sizes = sorted(((path.stat().st_size, path) for path in folder.rglob("*") if path.is_file()), reverse=True)
    total = sum(size for size, _ in sizes)
    if total > LARGEST:
        largest = ", ".join(f"{path.relative_to(folder)} {size / 1000:.0f} kB" for size, path in sizes[:3])
        raise CompanionError(
            f"the reference of chapter {slug} would take {total / 1000:.0f} kB; expected at most {LARGEST / 1000:.0f} "
            f"kB, because it is committed. Its largest files: {largest}. Record smaller arrays in the smoke profile."
        )


def same_files(old: Path, new: Path) -> bool:
    """Return whether two references are the same to the byte, but for the time and machine in record.json."""
    names = [{p.relative_to(folder) for p in folder.rglob("*") if p.is_file()} for folder in (old, new)]
    counted = names[0] - {Path("record.json")}
    return names[0] == names[1] and all((old / name).read_bytes() == (new / name).read_bytes() for name in counted)


def moved(old: Path, new: Path) -> list[str]:
    """Return readable lines that say what differs between two references: verdicts, numbers, figures, tables, text."""
    sides = [json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in (old, new)]
    lines = moved_verdicts(*[json.loads((folder / "verdicts.json").read_text()) for folder in (old, new)])
    lines += moved_metrics(*sides)
    figures = _moved_figures(old, new, *[set(side["figures"]) for side in sides])
    lines += ["figures:", *table(figures, marks=False)] if figures else []
    lines += [f"table {name} changed" for name in sorted(_changed_tables(old, new))]
    return lines + _moved_text(old / "chapter.ipynb", new / "chapter.ipynb")


def moved_verdicts(old: Mapping, new: Mapping) -> list[str]:
    """Return the table of verdicts and outcomes that changed."""
    rows = [row for row in compare_verdicts(old, new) if not row.ok]
    return ["verdicts:", *table(rows, marks=False)] if rows else []


def moved_metrics(old: Mapping, new: Mapping) -> list[str]:
    """Return the table of metrics that changed at all, from two results.json."""
    rows = [row for row in compare_metrics(old["metrics"], new["metrics"], EXACT) if not row.ok]
    return ["numbers:", *table(rows, marks=False)] if rows else []


def _moved_figures(old: Path, new: Path, before: set[str], now: set[str]) -> list[Row]:
    rows = [Row(f"figures/{name}", "present", "removed", False) for name in sorted(before - now)]
    rows += [Row(f"figures/{name}", "missing", "new", False) for name in sorted(now - before)]
    for name in sorted(before & now):
        arrays = []
        for folder in (old, new):
            with np.load(folder / "arrays" / f"{name}.npz", allow_pickle=False) as stored:
                arrays.append(dict(stored))
        rows += [row for row in compare_arrays(f"figures/{name}", *arrays, EXACT) if not row.ok]
        images = [reduce_image(folder / "figures" / f"{name}.png") for folder in (old, new)]
        if images[0].size != images[1].size:
            rows.append(Row(f"figures/{name} (image)", str(images[0].size), str(images[1].size), False))
        elif rms := image_rms(*images):
            rows.append(Row(f"figures/{name} (image)", "image", "other image", False, f"RMS {rms:.3g}"))
    return rows


def _changed_tables(old: Path, new: Path) -> set[str]:
    sides = [{p.stem: p.read_bytes() for p in (folder / "tables").glob("*.csv")} for folder in (old, new)]
    return {name for name in {*sides[0], *sides[1]} if sides[0].get(name) != sides[1].get(name)}


def _moved_text(old: Path, new: Path) -> list[str]:
    texts = [_canonical_text(path) for path in (old, new)]
    difference = list(difflib.unified_diff(*texts, "reference", "now", n=0, lineterm=""))
    return ["canonical text:", *difference[2:]] if difference else []


def _canonical_text(path: Path) -> Sequence[str]:
    cells = canonical_cells(nbformat.read(path, as_version=4))
    outputs = [output for cell in cells for output in cell.outputs]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts).splitlines()
