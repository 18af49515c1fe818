"""What a chapter calls to record its numbers, figures, tables and canonical text; it belongs to every run's reach.

A chapter begins and ends like this; the press, or a person in JupyterLab, runs the cells between:

>>> from companion.press.notebook import begin
>>> recorder = begin("belt", profile="laptop", seed=0)  # doctest: +SKIP
>>> recorder.number("asr.badnets.plain", 98.4, unit="%", n=1000, ci=(97.4, 99.0))  # doctest: +SKIP
>>> recorder.finish()  # doctest: +SKIP

The press says by the environment variable COMPANION_RUN_DIR where to write; without it a chapter writes to
build/scratch/<slug>. PyTorch is set up here (one thread, deterministic algorithms) but never imported: a chapter that
needs it imports it, or a module that does, before `begin`.
"""

import fnmatch
import json
import math
import numbers
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from companion.errors import CompanionError

METRIC_ID = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
NAME = re.compile(r"[a-z][a-z0-9_-]*")
DPI = 144
GLUE_PREFIX = "application/papermill.record/"  # what myst_nb.glue puts before the type of a value it does not display


def begin(slug: str, profile: str, seed: int, **parameters: Any) -> "Recorder":
    """Return the recorder of this run, after setting PyTorch (if imported) to one thread and deterministic algorithms.

    slug, profile, seed: as in the parameters cell; parameters: the other names of the parameters cell, if the chapter
    wants them held against what the press asked for.
    Raises CompanionError if they are not what the press asked for, which happens when a cell overwrites one of them.
    """
    given = {"chapter": slug, "profile": profile, "seed": seed, **parameters}
    asked = json.loads(os.environ.get("COMPANION_RUN", "{}"))
    for name, value in given.items():
        if name in asked and asked[name] != value:
            raise CompanionError(
                f"begin() got {name} = {value!r}, but this run was asked for with {name} = {asked[name]!r}. "
                "Hand begin() the names of the parameters cell as they are, and assign none of them again."
            )
    _make_deterministic()
    return Recorder(slug, profile, int(seed), _run_folder(slug), parameters)


def _make_deterministic() -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
        # the same as use_deterministic_algorithms(True), which first loads torch.compile's machinery for seconds
        torch.set_deterministic_debug_mode("error")
        torch.backends.cudnn.benchmark = False


def _run_folder(slug: str) -> Path:
    """Return the folder to write to: the press's, or an emptied build/scratch/<slug>."""
    folder = os.environ.get("COMPANION_RUN_DIR")
    if folder:
        return Path(folder)
    here = Path.cwd().resolve()
    root = next((place for place in [here, *here.parents] if (place / "_config.yml").is_file()), here)
    scratch = root / "build" / "scratch" / slug
    shutil.rmtree(scratch, ignore_errors=True)
    return scratch


class Recorder:
    """Collects what a run of a chapter found and writes it down; made by `begin`.

    Metric ids are dotted lower-case names (`asr.badnets.plain`); names of figures and tables are lower-case words
    joined by hyphens (`fuzzy-curve`). Each may be recorded once.
    """

    def __init__(self, slug: str, profile: str, seed: int, folder: Path, parameters: Mapping[str, Any] | None = None):
        self.slug, self.profile, self.seed = slug, profile, seed
        self.folder = folder
        self.parameters = dict(parameters or {})
        self._torch_was_set = "torch" in sys.modules
        self._metrics: dict[str, dict] = {}
        self._figures: dict[str, dict] = {}
        self._tables: dict[str, dict] = {}
        self._finished = False
        folder.mkdir(parents=True, exist_ok=True)

    def number(self, metric: str, value: float, unit: str = "", n: int | None = None, ci: Any = None) -> None:
        """Record one finite number and glue it, so that prose can show it with {glue:text}`metric`.

        metric: its id, used once; value: int, float or 0-dimensional array or tensor; unit: such as "%" or "s"; n: the
        number of trials behind it; ci: None, (low, high) or an `Interval`, in the unit of `value`.
        Raises CompanionError for a malformed or used id and for a number that is not finite.

        >>> recorder.number("anomaly_index.clean", 1.31)  # doctest: +SKIP
        """
        self._claim(metric, self._metrics, METRIC_ID, "metric id", "dotted lower-case names such as asr.badnets.plain")
        if ci is not None:
            low, high = (ci.low, ci.high) if hasattr(ci, "low") else ci
            ci = [_finite(low, f"{metric} (low end of ci)"), _finite(high, f"{metric} (high end of ci)")]
        value = _finite(value, metric)
        count = None if n is None else int(n)
        self._metrics[metric] = {"value": value, "unit": unit, "n": count, "ci": ci}
        _show({"text/plain": repr(value)}, {"scrapbook": {"name": metric, "mime_prefix": GLUE_PREFIX}}, GLUE_PREFIX)

    def proportion(self, metric: str, proportion: Any) -> None:
        """Record a `companion.statistics.Proportion` as a percentage with its Wilson interval and its n.

        >>> recorder.proportion("accuracy.clean", clean_accuracy(logits, labels))  # doctest: +SKIP
        """
        interval = proportion.interval()
        self.number(metric, 100 * proportion.rate, "%", proportion.n, (100 * interval.low, 100 * interval.high))

    def table(self, name: str, frame: Any, caption: str, alt: str | None = None) -> None:
        """Display a pandas DataFrame and keep it as tables/<name>.csv.

        A plain numbered index is left out; any other index becomes the first columns.
        caption: what the table shows; alt: a sentence for those who cannot see it, if the caption is not enough.
        """
        self._claim(name, self._tables, NAME, "name of a table", "lower-case words joined by hyphens")
        _require(caption, f"table {name!r}", "caption", "a sentence that says what the table shows")
        index = type(frame.index).__name__ != "RangeIndex"
        path = self._file("tables", f"{name}.csv")
        frame.to_csv(path, index=index, lineterminator="\n")
        self._tables[name] = {
            "caption": caption,
            "alt": alt,
            "file": f"tables/{name}.csv",
            "rows": len(frame),
            "cell": None,
        }
        html = frame.to_html(index=index, border=0)
        _show({"text/html": html, "text/plain": frame.to_string(index=index)}, {"companion": {"table": name}})

    def figure(self, name: str, figure: Any, arrays: Mapping[str, Any], alt: str, caption: str) -> None:
        """Display a matplotlib figure with alt text; keep figures/<name>.png and the data as arrays/<name>.npz.

        figure: a matplotlib Figure, closed afterwards; arrays: {name: array} of everything drawn, so that the figure
        gate can compare numbers and not only pixels; alt: what the figure shows, for those who cannot see it; caption:
        printed below it.
        Raises CompanionError if a text is missing, there is no array, or an array holds objects.
        """
        import numpy as np

        self._claim(name, self._figures, NAME, "name of a figure", "lower-case words joined by hyphens")
        _require(
            alt, f"figure {name!r}", "alt", "a sentence that says what the figure shows to those who cannot see it"
        )
        _require(caption, f"figure {name!r}", "caption", "the sentence printed below the figure")
        kept = {key: _as_array(np, value, f"array {key!r} of figure {name!r}") for key, value in arrays.items()}
        _require(kept, f"figure {name!r}", "arrays", "the arrays that are drawn, by name")
        path = self._file("figures", f"{name}.png")
        figure.savefig(path, dpi=DPI, bbox_inches="tight", metadata={"Software": None})  # no version, no date
        np.savez_compressed(self._file("arrays", f"{name}.npz"), **kept)  # dates in it are fixed by NumPy
        self._figures[name] = {
            "caption": caption,
            "alt": alt,
            "file": f"figures/{name}.png",
            "arrays": f"arrays/{name}.npz",
            "cell": None,
        }
        _show_picture(path, alt, {"figure": name})
        if "matplotlib.pyplot" in sys.modules:  # else Jupyter shows an open figure once more
            sys.modules["matplotlib.pyplot"].close(figure)

    def canonical(self, *patterns: str, digits: int = 1) -> str:
        """Return a line for each metric that matches one of `patterns` (as in file names), its value rounded.

        >>> recorder.say(recorder.canonical("asr.*", "accuracy.*"))  # doctest: +SKIP
        """
        chosen = [name for pattern in patterns for name in self._metrics if fnmatch.fnmatchcase(name, pattern)]
        if not chosen:
            raise CompanionError(f"no metric recorded so far matches {', '.join(patterns)}; record metrics first")
        width = max(map(len, chosen))
        found = [self._metrics[name] for name in chosen]
        values = [f"{one['value']:.{digits}f} {one['unit']}".rstrip() for one in found]
        return "\n".join(f"{name:<{width}}  {value}" for name, value in zip(chosen, values, strict=True))

    def say(self, text: str) -> None:
        """Print canonical text: nbval holds it, character by character, against the committed notebook.

        Print rounded numbers and verdicts only, in a cell that records nothing.
        """
        print(text)

    def finish(self) -> None:
        """Write results.json; call it once, in the last cell, or the press calls the run failed."""
        if self._finished:
            raise CompanionError(f"chapter {self.slug}: finish() was called twice; call it once, in the last cell")
        torch = sys.modules.get("torch")
        if torch is not None and not self._torch_was_set:
            raise CompanionError(
                f"chapter {self.slug}: PyTorch was imported after begin(), so its threads and deterministic algorithms "
                "were not set. Import everything in the chapter's first code cell, before begin()."
            )
        results = {
            "chapter": self.slug,
            "profile": self.profile,
            "seed": self.seed,
            "metrics": self._metrics,
            "figures": self._figures,
            "tables": self._tables,
        }
        text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (self.folder / "results.json").write_text(text, encoding="utf-8")
        environment = json.dumps(_environment(torch), indent=1) + "\n"
        (self.folder / "environment.json").write_text(environment, encoding="utf-8")
        self._finished = True

    def _claim(self, name: str, taken: Mapping, pattern: re.Pattern, kind: str, expected: str) -> None:
        if self._finished:
            raise CompanionError(f"{kind} {name!r} was recorded after finish(); make finish() the last call")
        if not isinstance(name, str) or not pattern.fullmatch(name):
            raise CompanionError(f"{name!r} is no {kind}: expected {expected}")
        if name in taken:
            raise CompanionError(f"the {kind} {name!r} was recorded twice; give each its own")

    def _file(self, kind: str, name: str) -> Path:
        path = self.folder / kind / name
        path.parent.mkdir(exist_ok=True)
        return path


def _require(value: Any, what: str, name: str, expected: str) -> None:
    if not value or (isinstance(value, str) and not value.strip()):
        raise CompanionError(f"{what} has no {name}: expected {expected}")


def _finite(value: Any, what: str) -> int | float:
    """Return a plain int or float; raise CompanionError unless it is one finite number."""
    try:
        plain = int(value) if isinstance(value, numbers.Integral) else float(value)
    except (TypeError, ValueError):
        raise CompanionError(f"metric {what}: found {value!r}; expected one number") from None
    if not math.isfinite(plain):
        raise CompanionError(
            f"metric {what} is {plain}; expected a finite number. Find out what was divided by zero or diverged; "
            "leave a metric out where it does not exist."
        )
    return plain


def _as_array(np, value: Any, what: str):
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if array.dtype == object:
        raise CompanionError(f"{what} holds Python objects; expected numbers, truth values or text of one shape")
    return array


def _show(data: Mapping[str, str], metadata: Mapping[str, Any], prefix: str = "") -> None:
    """Display `data` in a notebook; outside of one, do nothing."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    if shell:
        from IPython.display import publish_display_data

        publish_display_data({prefix + kind: value for kind, value in data.items()}, metadata=dict(metadata))


def _show_picture(path: Path, alt: str, companion: Mapping[str, str]) -> None:
    import base64

    data = {"image/png": base64.b64encode(path.read_bytes()).decode(), "text/plain": alt}
    _show(data, {"image/png": {"alt": alt}, "companion": dict(companion)})


def _environment(torch) -> dict[str, Any]:
    """Return what only the process that computed knows about itself."""
    cuda = torch is not None and torch.cuda.is_initialized()
    store = sys.modules["companion.store"].default_store() if "companion.store" in sys.modules else None
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__ if torch is not None else None,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads() if torch is not None else 1,
        "models": {"trained": store.trained, "reused": store.reused} if store else None,
    }
