"""A project with the real book and manifests, and toy chapters that run in seconds without PyTorch."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]

CHAPTER = """\
# %% [markdown]
# # A toy of BELT
#
# <!-- press:badge -->
#
# The double of three is {glue:text}`toy.double:.1f`, says {cite}`qiu2024belt`; see {numref}`fig-belt-line`,
# {eq}`eq-toy` and the [table](#tab-belt-squares). A rare word: xylophone.
#
# $$
# \\mathcal{L}(\\theta) = \\sum_{i=1}^{N} \\mathrm{CE}(f_\\theta(x_i), y_i) + \\lambda \\lVert \\theta \\rVert_2^2
# $$ (eq-toy)

# %% tags=["parameters"]
profile = "laptop"
seed = 0
size = 3

# %%
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import pandas as pd
from companion.press.notebook import begin
from companion.seeding import derive_seed

run = begin("belt", profile, seed)

# %%
run.number("toy.double", 2 * size, unit="%", n=size, ci=(5.0, 7.0))
run.number("toy.seed", derive_seed(seed, "toy") % 2)

# %% [markdown]
# ## A figure and a table

# %%
figure, axes = plt.subplots(figsize=(6, 2.5))
axes.plot(range(size))
axes.set(xlabel="step", ylabel="value")
run.figure("line", figure, {"y": list(range(size))}, alt="A line that rises from zero.", caption="A line, $y = x$.")

# %%
frame = pd.DataFrame({"number": range(size), "square": [n * n for n in range(size)]})
run.table("squares", frame, "Squares of small numbers.")

# %%
run.say("double: 6")

# %% [markdown]
# ## Claims
#
# <!-- press:claims -->
#
# ## Artifacts
#
# <!-- press:artifacts -->
#
# ## Ours beside the paper
#
# <!-- press:paper-values -->
#
# ## Deviations
#
# <!-- press:deviations -->
#
# ## Record
#
# <!-- press:record -->
#
# ```{exercise} Doubling
# :label: ex-belt-double
# Double four.
# ```
#
# ```{solution} ex-belt-double
# :class: dropdown
# Eight.
# ```

# %%
run.finish()
"""

BROKEN = """\
# %% [markdown]
# # A broken toy

# %% tags=["parameters"]
profile = "laptop"
seed = 0

# %%
from companion.press.notebook import begin

run = begin("flba", profile, seed)

# %%
raise ValueError("the toy <broke> here")
"""


def card(slug: str) -> dict:
    """Return a card; only `belt` has claims."""
    profile = {"seeds": [0], "data": [], "cell_timeout": 60, "memory_mb": 1000, "parameters": {}}
    content = {
        "slug": slug,
        "part": "I",
        "order": 1,
        "title": f"A toy of {slug}",
        "bibliography": {"key": "toy", "title": "A toy", "authors": ["Nobody"], "venue": "Nowhere", "year": 2024},
        "summary": "A toy.",
        "profiles": {"smoke": profile, "laptop": profile},
        "claims": [],
        "artifacts": [],
        "deviations": [],
    }
    if slug == "belt":
        value = {"text": "98 %", "evidence": "A"}
        content["claims"] = [
            _claim("double", "The double is above $x_0$ and `five`.", "toy.double > 5", value=value),
            _claim("wrong", "The double is below five.", "toy.double < 5"),
            _claim("half", "Above five and below four.", "toy.double > 5", "toy.double < 4"),
            _claim("later", "Something that needs *more* seeds.", "toy.double > 5", minimum_seeds=9),
        ]
        content["artifacts"] = [
            {"id": "line", "kind": "figure", "title": "A line", "where": "figure 1", "by": "line"},
            {"id": "other", "kind": "table", "title": "Another", "where": "table 9", "why_not": "It needs a cluster."},
        ]
        content["deviations"] = [{"topic": "scale", "text": "three instead of $10^6$", "reason": "it is a toy"}]
    return content


def _claim(name: str, statement: str, *expressions: str, value: dict | None = None, minimum_seeds: int = 1) -> dict:
    tests = [{"name": f"part {index}", "expression": text} for index, text in enumerate(expressions, 1)]
    claim = {"id": name, "statement": statement, "where": "abstract", "paper_value": value, "tests": tests}
    return {**claim, "minimum_seeds": minimum_seeds}


class ToyBook:
    """The project at `root`."""

    def __init__(self, root: Path, chapters: tuple[str, ...] = ("belt",)):
        self.root = root
        for name in ("book", "data_manifests"):
            shutil.copytree(ROOT / name, root / name)
        for name in ("_config.yml", "requirements.lock"):
            shutil.copy(ROOT / name, root / name)
        for name in ("seeding.py", "press/notebook.py"):  # a library of two pages is printed faster
            (root / "lib/companion" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / "lib/companion" / name, root / "lib/companion" / name)
        (root / "results").mkdir()
        for slug in chapters:
            folder = root / "notebooks" / slug
            folder.mkdir(parents=True)
            (folder / "chapter.py").write_text(CHAPTER if slug == "belt" else BROKEN)
            self.write_card(slug, card(slug))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("COMPANION_")},
            "COMPANION_ROOT": str(root),
            "COLUMNS": "200",
        }

    @property
    def html(self) -> Path:
        return self.root / "build" / "html"

    def write_card(self, slug: str, content: dict) -> None:
        (self.root / "notebooks" / slug / "paper.yml").write_text(yaml.safe_dump(content))

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a piece of text that stands once in a file."""
        path = self.root / name
        text = path.read_text()
        assert text.count(old) == 1, (name, old)
        path.write_text(text.replace(old, new))

    def build(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess:
        """Run `companion build` to its end."""
        command = [sys.executable, "-m", "companion.press.cli", "build", *arguments]
        return subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=timeout
        )
