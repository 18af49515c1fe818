"""`companion reference`: what it writes, what it refuses, and what it says has moved."""

import json

import numpy as np
import pytest
from gate_toys import CURVE, edit, toy_card, toy_cells, toy_reference, toy_run
from test_check import project, quick, run_again  # noqa: F401 (fixtures)

from companion.errors import CompanionError
from companion.press import reference
from companion.press.card import load_card
from companion.press.cli import main
from companion.press.reference_files import digest, moved, same_files, write_reference
from companion.press.runs import recorded_runs
from companion.press.schedule import Outcome


def test_what_moved_is_said_with_verdicts_first(project, quick, capsys):  # noqa: F811
    main(["reference"])
    run_again(project)
    capsys.readouterr()
    quick |= {"asr": 89.0, "curve": CURVE + 0.1, "row": ("strip", 4.0), "cells": toy_cells("asr 89.0 %\\nfailed")}
    assert main(["reference"]) == 0
    out = capsys.readouterr().out.partition("what moved")[2]
    places = [out.index(text) for text in ("verdicts:", "numbers:", "figures:", "table rates", "canonical text:")]
    assert places == sorted(places)
    assert "claim works, test high, seed 0" in out and "holds" in out
    assert next(line.split() for line in out.splitlines() if "asr.plain " in line) == ["asr.plain", "97", "89", "-8"]
    assert "-asr 97.3 %" in out and "+asr 89.0 %" in out
    stored = json.loads((project.results / "smoke" / "toy" / "results.json").read_text())
    assert stored["metrics"]["asr.plain"]["value"] == 89.0
    assert [path.name for path in (project.results / "smoke").iterdir()] == ["toy"]  # nothing left beside it


def test_the_same_results_from_other_sources_renew_the_record_alone(project, quick, capsys):  # noqa: F811
    main(["reference"])
    before = digest(project.results / "smoke" / "toy")
    assert main(["reference"]) == 0 and digest(project.results / "smoke" / "toy") == before
    run_again(project)
    assert main(["reference"]) == 0
    assert "nothing moved; the record" in capsys.readouterr().out
    assert digest(project.results / "smoke" / "toy") != before


def test_nothing_is_written_if_a_run_failed(project, quick, monkeypatch, capsys):  # noqa: F811
    main(["reference"])
    before = digest(project.results)
    run_again(project)
    failure = {"kind": "exception", "message": "ValueError: no"}
    monkeypatch.setattr(reference, "ensure_runs", lambda project, wanted, jobs: Outcome(failed=[(wanted[0], failure)]))
    assert main(["reference"]) == 1 and main(["reference", "--profile", "laptop"]) == 1
    out = capsys.readouterr().out
    assert "ValueError: no" in out and "nothing was written" in out
    assert digest(project.results) == before


def test_a_chapter_without_canonical_text_gets_no_reference(project, quick, capsys):  # noqa: F811
    quick["cells"] = toy_cells()[:2]
    assert main(["reference"]) == 2
    assert "no cell tagged nbval-check-output" in capsys.readouterr().err
    assert list((project.results / "smoke").iterdir()) == []


def test_recorded_runs_are_made_for_the_cards_seeds_and_only_when_stale(project, quick, capsys):  # noqa: F811
    assert main(["reference", "--profile", "laptop"]) == 0
    out = capsys.readouterr().out
    assert "recorded seed 1, seed 2" in out and "seed 1: new, 2 metrics" in out
    assert "not tested" in out and "held" in out  # two seeds are enough now
    found = recorded_runs(project, load_card(project, "toy"), "laptop")
    assert [(one.seed, one.stale) for one in found] == [(1, False), (2, False)]
    assert "cell" not in found[0].results["figures"]["curve"]

    assert main(["reference", "--profile", "laptop"]) == 0
    assert "up to date (seeds 1, 2)" in capsys.readouterr().out

    run_again(project)
    quick["asr"] = 80.0
    assert main(["reference", "--profile", "laptop"]) == 0
    out = capsys.readouterr().out
    assert out.index("claim works ") < out.index("asr.plain ")
    assert next(line.split()[:3] for line in out.splitlines() if "asr.plain " in line) == ["asr.plain", "97", "80"]


def test_a_recorded_run_that_is_too_large_is_refused_and_nothing_is_written(project, quick, capsys):  # noqa: F811
    quick["extra"] = [(f"series.at_{i}", float(i)) for i in range(3000)]
    assert main(["reference", "--profile", "laptop"]) == 2
    error = capsys.readouterr().err
    assert "3002 metrics" in error and "at most 200 kB" in error
    assert not list(project.results.rglob("seed-*.json"))


def test_a_reference_that_is_too_large_names_its_largest_files(tmp_path):
    run = toy_run(tmp_path / "run", cells=toy_cells())
    noise = np.random.default_rng(0).random(300_000)
    np.savez(run.path / "arrays" / "curve.npz", success=noise)
    with pytest.raises(CompanionError, match=r"at most 2000 kB.*arrays/curve\.npz 2400 kB"):
        write_reference(run, toy_card(), tmp_path / "reference")


def test_seeds_belong_to_recorded_runs(project, quick, capsys):  # noqa: F811
    assert main(["reference", "--seeds", "3"]) == 2
    assert "leave it out" in capsys.readouterr().err
    assert main(["reference", "--profile", "paper"]) == 2
    assert main(["reference", "toy", "--profile", "paper"]) == 2


def test_same_files_ignores_the_record_only(tmp_path):
    first = toy_reference(tmp_path / "a")
    second = toy_reference(tmp_path / "b")
    edit(second / "record.json", "a CPU", "another CPU")
    assert same_files(first, second) and moved(first, second) == []
    edit(second / "chapter.ipynb", "x = 1", "x = 2")
    assert not same_files(first, second)
    (second / "extra").write_text("")
    assert not same_files(first, second)
