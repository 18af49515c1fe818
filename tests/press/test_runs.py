"""Reading runs back: finished, failed and recorded ones."""

import json

import pytest

from companion.errors import CompanionError
from companion.press import runs
from companion.press.keys import Key
from companion.press.project import Project
from companion.press.runs import Request

PARTS = {"cells": ["a"], "modules": {}, "parameters": {"size": 3}, "data": {}, "lock": "l", "portable": False}
TODAY = Key("today", PARTS)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.delenv("COMPANION_BUILD", raising=False)
    monkeypatch.setattr(runs, "run_key", lambda *arguments, **kind: TODAY)
    return Project(tmp_path)


class Card:
    slug = "toy"


def record(key="today", started="2026-01-01", **more) -> dict:
    return {"key": key, "parts": PARTS, "overrides": {}, "portable": False, "started": started, **more}


def put(project, key="today", seed=0, **more):
    folder = runs.seed_folder(project.runs, "toy", "laptop", seed) / key
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record(key, **more)))
    (folder / "results.json").write_text(json.dumps({"seed": seed, "metrics": {}}))


def test_a_run_is_found_by_todays_key_alone(project):
    assert runs.find_run(project, Card, "laptop", 0) is None
    put(project, "yesterday")
    assert runs.find_run(project, Card, "laptop", 0) is None
    put(project, "today")
    assert runs.find_run(project, Card, "laptop", 0).record["key"] == "today"
    assert runs.find_run(project, Card, "laptop", 1) is None


def test_the_latest_run_is_the_newest_of_its_kind(project):
    put(project, "a", started="2026-01-01")
    put(project, "b", started="2026-01-03", overrides={"size": 4})
    put(project, "c", started="2026-01-02")
    put(project, "d", started="2026-01-04", portable=True)
    assert runs.latest_run(project, "toy", "laptop", 0).path.name == "c"
    assert runs.latest_run(project, "toy", "laptop", 0, overrides={"size": 4}).path.name == "b"
    assert runs.latest_run(project, "toy", "laptop", 0, portable=True).path.name == "d"
    assert runs.latest_run(project, "toy", "laptop", 0, overrides={"size": 5}) is None


def test_a_recorded_run_knows_what_changed_since(project):
    folder = project.results / "laptop" / "toy"
    folder.mkdir(parents=True)
    old = {**record("old"), "parts": {**PARTS, "parameters": {"size": 2}}}
    for seed, content in ((2, old), (1, record())):
        text = json.dumps({"record": content, "results": {"seed": seed, "metrics": {}}})
        runs.recorded_path(project, "toy", "laptop", seed).write_text(text)
    first, second = runs.recorded_runs(project, Card, "laptop")
    assert (first.seed, first.stale, first.reasons) == (1, False, ())
    assert (second.seed, second.stale, second.reasons) == (2, True, ("parameter size 2 -> 3",))


def test_a_damaged_recorded_run_is_named(project):
    path = runs.recorded_path(project, "toy", "laptop", 0)
    path.parent.mkdir(parents=True)
    for text in ("{", '{"results": {}}'):
        path.write_text(text)
        with pytest.raises(CompanionError, match=r"results/laptop/toy/seed-0.json"):
            runs.recorded_runs(project, Card, "laptop")


def test_requests_of_different_runs_have_different_names():
    requests = [
        Request("toy", "laptop", 0),
        Request("toy", "laptop", 1),
        Request("toy", "smoke", 0),
        Request("toy", "laptop", 0, {"size": 4}),
        Request("toy", "laptop", 0, {"size": 5}),
        Request("toy", "laptop", 0, portable=True),
        Request("toy", "laptop", 0, {"size": 4}, portable=True),
    ]
    assert len({request.name for request in requests}) == len(requests)
    assert requests[0].name == "toy.laptop.seed-0"


def test_a_failure_of_another_kind_of_run_is_not_the_chapters(project):
    folder = runs.failure_path(project, Request("toy", "laptop", 0, {"size": 4}))
    folder.mkdir(parents=True)
    (folder / "failure.json").write_text("{}")
    assert runs.find_failure(project, "toy", "laptop", 0) is None
    assert runs.read_failure(project, Request("toy", "laptop", 0, {"size": 4})) == {"notebook": None}
