"""`companion check`: what it prints, what it keeps and how it exits, chapter by chapter."""

import pytest
from gate_toys import RECORD, edit, toy_cells, toy_project, toy_run

from companion.errors import CompanionError
from companion.press import check, reference
from companion.press.card import load_card
from companion.press.cli import main
from companion.press.gates import GATES
from companion.press.reference_files import write_json
from companion.press.runs import find_run, run_key, run_path
from companion.press.schedule import Outcome

QUICK = ["--gate", "numbers", "--gate", "figures", "--gate", "verdicts"]  # without a kernel


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_ROOT", str(tmp_path))
    monkeypatch.delenv("COMPANION_BUILD", raising=False)
    monkeypatch.delenv("COMPANION_STORE", raising=False)
    return toy_project(tmp_path)


@pytest.fixture
def quick(project, monkeypatch):
    """The project with runs that are made by the recorder alone; `quick` holds what to record."""
    changes = {}

    def make(project, requests, jobs=None):
        outcome = Outcome()
        for request in requests:
            key = run_key(project, load_card(project, "toy"), request.profile, request.seed, portable=request.portable)
            path = run_path(project, "toy", request.profile, request.seed, key)
            if not path.is_dir():
                toy_run(path, request.seed, request.profile, **{"cells": toy_cells(), **changes})
                write_json(
                    path / "record.json",
                    {**RECORD, "key": key.digest, "parts": key.parts, "portable": request.portable},
                )
                outcome.ran.append(request)
        return outcome

    monkeypatch.setattr(check, "ensure_runs", make)
    monkeypatch.setattr(reference, "ensure_runs", make)
    return changes


def run_again(project, chapter=("size = 11", "size = 12")):
    """Change the chapter, so that its run is stale and is made again."""
    edit(project.notebooks / "toy" / "chapter.py", *chapter)


def test_the_commands_end_to_end(project, capsys):
    assert main(["reference", "toy"]) == 0
    assert "a first reference" in capsys.readouterr().out
    folder = project.results / "smoke" / "toy"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} == {
        *("results.json", "record.json", "verdicts.json", "chapter.ipynb", "arrays/curve.npz", "figures/curve.png")
    }
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert "toy: ok" in out and "1 of 1 chapters passed" in out
    assert all(f"  {gate:<9} ok" in out for gate in GATES)
    kept = check.read_gates(project, load_card(project, "toy"))
    assert kept["passed"] and list(kept["gates"]) == list(GATES)
    assert main(["reference"]) == 0
    assert "up to date, nothing moved" in capsys.readouterr().out

    edit(folder / "results.json", '"value": 97.0', '"value": 96.0')
    assert check.read_gates(project, load_card(project, "toy")) is None  # of another reference now
    assert main(["check", "--gate", "numbers"]) == 1
    assert "asr.plain  96         97   +1" in capsys.readouterr().out


def test_a_changed_number_fails_and_the_cause_is_named(project, quick, capsys):
    assert main(["reference"]) == 0
    run_again(project)
    quick["asr"] = 89.0
    assert main(["check", *QUICK]) == 1
    out = capsys.readouterr().out
    assert "toy: DIFFERS FROM ITS REFERENCE" in out and "0 of 1 chapters passed; not toy" in out
    assert "claim works, test high, seed 0" in out  # a verdict's part, though one seed leaves it not tested
    assert "since the reference was made: code cell 1 of chapter.py changed" in out
    assert "`companion reference toy` renews it" in out


def test_one_gate_alone_does_not_make_a_chapter_pass_on_the_status_page(project, quick, capsys):
    main(["reference"])
    assert main(["check", "--gate", "numbers"]) == 0
    assert "figures" not in capsys.readouterr().out.partition("toy: ok")[2]
    kept = check.read_gates(project, load_card(project, "toy"))
    assert kept["passed"] is False and list(kept["gates"]) == ["numbers"]
    assert main(["check", "--gate", "figures"]) == 0
    assert list(check.read_gates(project, load_card(project, "toy"))["gates"]) == ["numbers", "figures"]


def test_gates_of_other_sources_are_not_shown(project, quick):
    main(["reference"])
    main(["check", *QUICK])
    run_again(project)
    assert check.read_gates(project, load_card(project, "toy")) is None


def test_a_missing_reference_fails_with_the_command_that_makes_it(project, quick, capsys):
    assert main(["check"]) == 1
    out = capsys.readouterr().out
    assert "toy: NOT CHECKED" in out and "run `companion reference toy`" in out


def test_a_damaged_reference_fails_its_gate_and_the_others_go_on(project, quick, capsys):
    main(["reference"])
    (project.results / "smoke" / "toy" / "arrays" / "curve.npz").write_bytes(b"no archive")
    assert main(["check", *QUICK]) == 1
    out = capsys.readouterr().out
    assert "figures   FAILED" in out and "curve.npz cannot be read" in out and "numbers   ok" in out


def test_a_failed_run_is_told_and_nothing_else_is_compared(project, capsys):
    main_folder = project.notebooks / "toy" / "paper.yml"
    edit(main_folder, "slug: toy", "slug: other")
    assert main(["check"]) == 1
    out = capsys.readouterr().out
    assert "toy: NOT CHECKED" in out and "slug: found 'other'" in out


def test_no_chapter_is_an_error(project, capsys):
    (project.notebooks / "toy" / "paper.yml").unlink()
    assert main(["check"]) != 0
    assert main(["check", "toi"]) != 0


def test_metrics_of_recorded_runs_are_known(project, quick):
    card = load_card(project, "toy")
    main(["reference", "--profile", "laptop", "--seeds", "4"])
    path = project.results / "laptop" / "toy" / "seed-4.json"
    edit(path, '"index"', '"only.at.laptop"')
    check.ensure_runs(project, [check.smoke_request(project, "toy")])
    run = find_run(project, card, "smoke", 0, portable=True)
    assert check.known_metrics(project, card, run) == {"asr.plain", "index", "only.at.laptop"}


def test_only_smoke_has_references(capsys):
    with pytest.raises(SystemExit):
        main(["check", "--profile", "laptop"])
    assert "invalid choice" in capsys.readouterr().err
    assert issubclass(CompanionError, Exception)
