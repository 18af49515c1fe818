"""What chapters record: ids, numbers, figures and tables, and the refusal of what must not be shown."""

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from companion.errors import CompanionError
from companion.press.notebook import begin
from companion.statistics import Interval, Proportion


@pytest.fixture
def recorder(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_RUN_DIR", str(tmp_path))
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    yield begin("toy", "laptop", 0)
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)
    plt.close("all")


def results(recorder) -> dict:
    recorder.finish()
    return json.loads((recorder.folder / "results.json").read_text())


def curve():
    figure, axis = plt.subplots()
    axis.plot([1, 2, 3])
    return figure


def test_begin_makes_pytorch_deterministic_on_one_thread(recorder):
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    results(recorder)
    assert json.loads((recorder.folder / "environment.json").read_text())["threads"] == 1


def test_numbers_of_every_kind_become_plain_ones(recorder):
    recorder.number("a.int", np.int64(3), "s", n=np.int64(4))
    recorder.number("a.float", np.float32(0.5), ci=Interval(0.25, 0.75, 0.95, "wilson"))
    recorder.number("a.tensor", torch.tensor(2.5), ci=(2, 3))
    metrics = results(recorder)["metrics"]
    assert metrics["a.int"] == {"value": 3, "unit": "s", "n": 4, "ci": None}
    assert metrics["a.float"] == {"value": 0.5, "unit": "", "n": None, "ci": [0.25, 0.75]}
    assert metrics["a.tensor"] == {"value": 2.5, "unit": "", "n": None, "ci": [2, 3]}


def test_a_proportion_is_a_percentage_with_wilson_interval(recorder):
    recorder.proportion("asr.plain", Proportion(45, 50))
    metric = results(recorder)["metrics"]["asr.plain"]
    assert (metric["value"], metric["unit"], metric["n"]) == (90.0, "%", 50)
    assert metric["ci"] == pytest.approx([78.6, 95.7], abs=0.1)


@pytest.mark.parametrize("metric", ["Asr", "asr.", "asr..x", "1asr", "asr.1", "asr plain", "asr-x", "", None])
def test_malformed_ids_are_refused(recorder, metric):
    with pytest.raises(CompanionError, match="is no metric id"):
        recorder.number(metric, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, torch.tensor(math.nan), None, "x", [1, 2]])
def test_what_is_no_finite_number_is_refused(recorder, value):
    with pytest.raises(CompanionError, match=r"metric asr.*(finite|one number)"):
        recorder.number("asr", value)
    with pytest.raises(CompanionError, match="low end"):
        recorder.number("acc", 1, ci=(math.nan, 2))


def test_everything_is_recorded_once(recorder):
    recorder.number("asr", 1)
    with pytest.raises(CompanionError, match="'asr' was recorded twice"):
        recorder.number("asr", 2)
    recorder.figure("curve", curve(), {"y": [1]}, alt="A line.", caption="A line.")
    with pytest.raises(CompanionError, match="'curve' was recorded twice"):
        recorder.figure("curve", curve(), {"y": [1]}, alt="A line.", caption="A line.")
    recorder.finish()
    with pytest.raises(CompanionError, match="twice"):
        recorder.finish()
    with pytest.raises(CompanionError, match="after finish"):
        recorder.number("late", 1)


def test_a_figure_needs_texts_and_arrays(recorder):
    for missing in ("alt", "caption"):
        texts = {"alt": "A line.", "caption": "A line.", missing: " "}
        with pytest.raises(CompanionError, match=f"has no {missing}"):
            recorder.figure("curve", curve(), {"y": [1]}, **texts)
    with pytest.raises(CompanionError, match="has no arrays"):
        recorder.figure("curve", curve(), {}, alt="A line.", caption="A line.")
    with pytest.raises(CompanionError, match="Python objects"):
        recorder.figure("curve", curve(), {"y": np.array([{}])}, alt="A line.", caption="A line.")


def test_figures_are_the_same_bytes_each_time(recorder):
    arrays = {"x": np.arange(3), "y": torch.ones(2, 2)}
    for name in ("one", "two"):
        recorder.figure(name, curve(), arrays, alt="A line.", caption="A line.")
    for kind in ("figures/{}.png", "arrays/{}.npz"):
        first, second = [(recorder.folder / kind.format(name)).read_bytes() for name in ("one", "two")]
        assert first == second
    assert b"matplotlib" not in (recorder.folder / "figures" / "one.png").read_bytes()
    with np.load(recorder.folder / "arrays" / "one.npz") as kept:
        assert kept["y"].tolist() == [[1, 1], [1, 1]]
    assert plt.get_fignums() == []  # else Jupyter shows them once more


def test_tables_are_kept_as_csv(recorder):
    recorder.table("plain", pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), caption="A table.")
    recorder.table("named", pd.DataFrame({"a": [1.5]}, index=pd.Index(["x"], name="kind")), caption="A table.")
    assert (recorder.folder / "tables" / "plain.csv").read_text() == "a,b\n1,x\n2,y\n"
    assert (recorder.folder / "tables" / "named.csv").read_text() == "kind,a\nx,1.5\n"
    assert results(recorder)["tables"]["plain"]["rows"] == 2


def test_begin_holds_the_notebook_against_what_the_press_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPANION_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("COMPANION_RUN", json.dumps({"chapter": "toy", "profile": "smoke", "seed": 3, "size": 2}))
    assert begin("toy", "smoke", 3, size=2).seed == 3
    wrong = {"seed": ("toy", "smoke", 0), "profile": ("toy", "laptop", 3), "chapter": ("other", "smoke", 3)}
    for name, arguments in wrong.items():
        with pytest.raises(CompanionError, match=f"begin\\(\\) got {name}"):
            begin(*arguments)


def test_outside_the_press_a_chapter_writes_to_scratch(monkeypatch, tmp_path):
    monkeypatch.delenv("COMPANION_RUN_DIR", raising=False)
    (tmp_path / "_config.yml").touch()
    (tmp_path / "notebooks" / "toy").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks" / "toy")
    assert begin("toy", "laptop", 0).folder == tmp_path / "build" / "scratch" / "toy"
