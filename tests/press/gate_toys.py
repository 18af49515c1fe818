"""A toy chapter's run and reference, made by the recorder itself, for the tests of the gates."""

import io
from functools import lru_cache
from pathlib import Path

import nbformat
import numpy as np
import pandas
from matplotlib.figure import Figure

from companion.press.card import Card, Claim, ClaimTest, Profile, Tolerance
from companion.press.notebook import Recorder
from companion.press.project import Project
from companion.press.reference_files import write_json, write_reference
from companion.press.runs import Run, read_run

CURVE = np.linspace(0.0, 1.0, 11)
RECORD = {"key": "k", "portable": True, "parts": {}, "overrides": {}, "cpu": "a CPU", "started": "2026-01-01T00:00:00"}


def toy_card(**changes) -> Card:
    claims = (
        Claim("works", "It works.", "abstract", None, (ClaimTest("high", "asr.plain > 90"),), 0.0, 1, None),
        Claim("hides", "It hides.", "abstract", None, (ClaimTest("low", "asr.plain < 10"),), 0.0, 1, None),
    )
    content = {
        "slug": "toy",
        "part": "I",
        "order": 1,
        "title": "Toy",
        "bibliography": {},
        "summary": "A toy.",
        "profiles": {"smoke": Profile("smoke", (0,), (), (), 30, 1000, {})},
        "claims": claims,
        "artifacts": (),
        "deviations": (),
        "tolerances": (Tolerance("asr.*", 0.5, 0.0), Tolerance("*", 1e-6, 1e-6)),
    }
    return Card(**{**content, **changes})


def toy_run(
    folder,
    seed=0,
    profile="smoke",
    *,
    asr=97.0,
    curve=CURVE,
    label="trigger kept",
    extra=(),
    cells=None,
    row=("strip", 3.5),
) -> Run:
    """Record a small run into `folder`; the arguments change one thing each."""
    recorder = Recorder("toy", profile, seed, folder)
    recorder.number("asr.plain", asr, "%", n=200, ci=(asr - 3, asr + 2))
    recorder.number("index", 1.25)
    for metric, value in extra:
        recorder.number(metric, value)
    recorder.table("rates", pandas.DataFrame([row, ("none", 9.0)], columns=["defence", "rate"]), "Rates.")
    arrays = {"share": CURVE, "success": curve, "steps": np.arange(3), "flags": np.array([True, False])}
    recorder.figure("curve", Drawn(curve, label), arrays, "A rising curve.", "The curve.")
    recorder.finish()
    (folder / "environment.json").unlink()
    notebook = nbformat.v4.new_notebook(cells=toy_cells() if cells is None else cells)
    nbformat.write(notebook, folder / "chapter.ipynb")
    write_json(folder / "record.json", RECORD)
    return read_run(folder)


class Drawn(Figure):
    """A matplotlib figure that is drawn once in a session and then only copied."""

    def __init__(self, curve, label):
        super().__init__()
        self.content = _draw(tuple(curve), label)

    def savefig(self, path, **_):
        Path(path).write_bytes(self.content)


def toy_figure(curve, label) -> Figure:
    figure = Figure(figsize=(5, 3.5))
    axes = figure.subplots()
    axes.plot(CURVE, curve)
    axes.set(xlabel=label, ylabel="success", ylim=(0, 2))
    return figure


@lru_cache
def _draw(curve, label) -> bytes:
    picture = io.BytesIO()
    toy_figure(curve, label).savefig(picture, dpi=144, bbox_inches="tight")
    return picture.getvalue()


def toy_cells(text="asr 97.3 %\\nheld", code="x = 1") -> list:
    """A prose cell, a plain cell and a canonical cell, as papermill would leave them."""
    plain = nbformat.v4.new_code_cell(code, execution_count=1, metadata={"papermill": {"duration": 3.1}})
    plain.outputs = [nbformat.v4.new_output("display_data", {"image/png": "A" * 5000, "text/plain": "a picture"})]
    canonical = nbformat.v4.new_code_cell(f"print('{text}')", execution_count=2)
    canonical.metadata["tags"] = ["nbval-check-output"]
    canonical.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text.replace("\\n", "\n") + "\n")]
    return [nbformat.v4.new_markdown_cell("# Toy"), plain, canonical]


def toy_reference(tmp_path, **changes):
    """Write the reference of a toy run and return its folder."""
    folder = tmp_path / "results" / "smoke" / "toy"
    write_reference(toy_run(tmp_path / "reference-run", **changes), toy_card(), folder)
    return folder


CHAPTER = """# %% [markdown]
# # Toy

# %% tags=["parameters"]
profile = "smoke"
seed = 0
size = 11

# %%
import numpy as np
from matplotlib.figure import Figure

from companion.press.notebook import begin

recorder = begin("toy", profile, seed, size=size)

# %%
curve = np.linspace(0.0, 1.0, size)
figure = Figure()
figure.subplots().plot(curve)
recorder.figure("curve", figure, {"success": curve}, "A rising curve.", "The curve.")
recorder.number("asr.plain", 97.0 + seed, "%", n=200)

# %% tags=["nbval-check-output"]
recorder.say(f"attack success {97.0:.1f} %")

# %%
recorder.finish()
"""
CARD = """slug: toy
part: I
order: 1
title: Toy
bibliography: {key: toy, title: Toy, authors: [A Person], venue: Somewhere, year: 2024}
summary: A toy.
profiles:
  smoke: {seeds: [0], data: [], cell_timeout: 60, memory_mb: 4000, parameters: {size: 11}}
  laptop: {seeds: [0], recorded_seeds: [1, 2], data: [], cell_timeout: 60, memory_mb: 4000, parameters: {size: 21}}
claims:
  - id: works
    statement: It works.
    where: abstract
    paper_value: null
    tests: [{name: high, expression: asr.plain > 90}]
    minimum_seeds: 2
artifacts: []
deviations: []
tolerances:
  "asr.*": {absolute: 0.5}
"""


def toy_project(root: Path) -> Project:
    """Write a project with one small chapter."""
    for name, text in {
        "_config.yml": "",
        "requirements.lock": "numpy==2.0.0\n",
        "notebooks/toy/chapter.py": CHAPTER,
        "notebooks/toy/paper.yml": CARD,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "data_manifests").mkdir()
    return Project(root)


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text that stands in a file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
