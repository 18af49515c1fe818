"""Staleness, both ways: what decides a result changes the keys of exactly the runs that use it; nothing else does."""

import json

import pytest

from companion.press.keys import difference, lock_digest, parse_override

REACHED = "lib/companion/toys/reached.py"
INDIRECT = "lib/companion/toys/indirect.py"
CHAPTER = "notebooks/toy/chapter.py"


@pytest.fixture
def project(miniature):
    """Return a project in which `toy` reaches the toys module and `other` does not."""
    miniature.chapter("toy")
    miniature.chapter("other")
    miniature.edit("notebooks/other/chapter.py", "from companion.toys.reached import double\n", "double = abs\n")
    for profile in ("laptop", "smoke"):
        miniature.limits("other", profile, data=[])
    return miniature


DECIDES = {
    "a code cell": (CHAPTER, "1 / 3", "1 / 4", ["code cell 3 of chapter.py changed"]),
    "a reached module": (REACHED, "return TWO * x", "return TWO * x + 1", [f"{REACHED} changed"]),
    "an indirectly reached module": (INDIRECT, "TWO = 2", "TWO = 3", [f"{INDIRECT} changed"]),
    "a new import": (REACHED, "\n\ndef double", "import companion.toys.unreached\n\n\ndef double", None),
    "the loader of the data": ("lib/companion/toys/world.py", "(context, split):", "(context, split, size=1):", None),
    "the data's bits": ("data_manifests/toy_world.yml", "- b", "- c", ["data set toy_world changed"]),
    "the recorder": ("lib/companion/press/notebook.py", "DPI = 144", "DPI = 145", None),
}

DECIDES_NOT = {
    "prose": (CHAPTER, "# # A toy chapter", "# # A better toy chapter"),
    "a comment in a cell": (CHAPTER, "double(size) + seed, n=size)", "double(size) + seed, n=size)  # twice"),
    "formatting of a cell": (CHAPTER, "1 / 3", "1/3"),
    "a docstring in a reached module": (REACHED, '"""Double."""', '"""Twice as much."""'),
    "a comment in a reached module": (INDIRECT, "TWO = 2", "TWO = 2  # two"),
    "an unreached module": ("lib/companion/toys/unreached.py", "THREE = 3", "THREE = 4"),
    "another part of the press": ("lib/companion/press/status.py", '"fresh": "green"', '"fresh": "blue"'),
    "a comment in a manifest": ("data_manifests/toy_world.yml", "classes:", "# about\nclasses:"),
    "prose in a manifest": ("data_manifests/toy_world.yml", "description: Nothing.", "description: Nothing at all."),
    "a comment in the lock": ("requirements.lock", "# via toy", "# via another"),
    "a hash in the lock": ("requirements.lock", "sha256:00", "sha256:22"),
    "prose in the card": ("notebooks/toy/paper.yml", "summary: A toy.", "summary: A better toy."),
    "a limit in the card": ("notebooks/other/paper.yml", "order: 1", "order: 2"),
}


def edits(cases):
    return pytest.mark.parametrize("case", cases.values(), ids=cases)


@edits(DECIDES)
def test_what_decides_a_result_changes_its_key_and_no_other(project, keys, case):
    path, old, new, reasons = case
    before = {slug: keys(slug) for slug in ("toy", "other")}
    assert "error" not in before["toy"], before
    project.edit(path, old, new)
    after = {slug: keys(slug) for slug in ("toy", "other")}
    assert after["toy"]["digest"] != before["toy"]["digest"]
    assert (after["other"] != before["other"]) == (case is DECIDES["the recorder"])
    said = difference(before["toy"]["parts"], after["toy"]["parts"])
    assert said
    assert reasons is None or said == reasons


def test_a_parameter_changes_only_the_runs_that_use_it(project, keys):
    before = {profile: keys("toy", profile) for profile in ("laptop", "smoke")}
    project.limits("toy", "laptop", parameters={"size": 4})
    after = {profile: keys("toy", profile) for profile in ("laptop", "smoke")}
    assert after["smoke"] == before["smoke"]
    assert difference(before["laptop"]["parts"], after["laptop"]["parts"]) == ["parameter size 3 -> 4"]


def test_the_parameters_cell_counts_as_code(project, keys):
    before = keys("toy")
    project.edit(CHAPTER, "size = 3", "size = 4")
    said = difference(before["parts"], keys("toy")["parts"])
    assert said == ["code cell 1 of chapter.py changed"]


def test_the_lock_changes_every_run(project, keys):
    before = {slug: keys(slug) for slug in ("toy", "other")}
    project.edit("requirements.lock", "second==2.0", "second==2.1")
    for slug in ("toy", "other"):
        said = difference(before[slug]["parts"], keys(slug)["parts"])
        assert said == ["requirements.lock changed (names or versions of packages)"]


def test_what_decides_nothing_changes_no_key(project, keys):
    before = {slug: keys(slug) for slug in ("toy", "other")}
    for path, old, new in DECIDES_NOT.values():
        project.edit(path, old, new)
        assert {slug: keys(slug) for slug in ("toy", "other")} == before, path
    project.limits("toy", cell_timeout=61, memory_mb=1001, recorded_seeds=[1, 2])
    assert {slug: keys(slug) for slug in ("toy", "other")} == before


def test_seed_profile_portability_and_overrides_have_keys_of_their_own(project, keys):
    found = [
        keys("toy"),
        keys("toy", seed=1),
        keys("toy", "smoke"),
        keys("toy", portable=True),
        keys("toy", overrides={"size": 5}),
        keys("other"),
    ]
    assert len({key["digest"] for key in found}) == len(found)
    assert keys("toy", overrides={"size": 3}) == keys("toy")


def test_the_key_holds_what_is_reached_and_nothing_more(project, keys):
    modules = keys("toy")["parts"]["modules"]
    assert {f"companion.toys{name}" for name in ("", ".reached", ".indirect", ".world")} <= set(modules)
    assert "companion.toys.unreached" not in modules
    assert [name for name in modules if name.startswith("companion.press.")] == ["companion.press.notebook"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"overrides": {"siz": 1}}, ["unknown parameter 'siz'", "--set", "did you mean 'size'"]),
        ({"profile": "labtop"}, ["unknown profile 'labtop'", "did you mean 'laptop'"]),
    ],
)
def test_unknown_names_are_refused_with_a_suggestion(project, keys, asked, said):
    error = keys("toy", **asked)["error"]
    for words in said:
        assert words in error


def test_a_profile_cannot_set_what_the_chapter_does_not_have(project, keys):
    project.limits("toy", "smoke", parameters={"length": 3})
    assert "unknown parameter 'length'" in keys("toy", "smoke")["error"]
    assert "error" not in keys("toy", "laptop")


def test_broken_sources_say_where(project, keys):
    project.edit(CHAPTER, "1 / 3", "1 /")
    assert "notebooks/toy/chapter.py, the cell at line" in keys("toy")["error"]
    project.edit(CHAPTER, "1 /", "1 / 3")
    project.edit("data_manifests/toy_world.yml", "kind: generated", "kind: imagined")
    assert "toy_world.yml" in keys("toy")["error"]
    (project.root / "requirements.lock").unlink()
    assert "requirements.lock is missing" in keys("other")["error"]


def test_overrides_are_read_as_yaml():
    texts = ["a=3", "a=0.5", "a=true", "a=[1, 2]", "a=signs", "a=x=y", "a="]
    assert [parse_override(text)[1] for text in texts] == [3, 0.5, True, [1, 2], "signs", "x=y", None]


def test_the_real_lock_has_a_digest_of_every_pin(tmp_path):
    lock = tmp_path / "requirements.lock"
    digests = set()
    for text in (
        "a==1\nb==2\n",
        "b==2\na==1\n",
        "a==1 \\\n    --hash=x\nb==2 ; python_version < '3'\n",
        "a==1\nb==3\n",
    ):
        lock.write_text(text)
        digests.add(lock_digest(lock))
    assert len(digests) == 3  # the order does not count; a condition and a version do


def test_a_changed_mapping_names_only_its_changed_entries():
    before = {"parameters": {"main": {"data": "digits", "training": {"epochs": 3, "rate": 0.1}, "side": 16}}}
    after = {"parameters": {"main": {"data": "digits", "training": {"epochs": 4, "rate": 0.1}}}}
    assert difference(before, after) == ["parameter main.side 16 -> (none)", "parameter main.training.epochs 3 -> 4"]


def test_reasons_name_every_kind_of_change():
    before = {"cells": ["a"], "modules": {"companion.x": "1"}, "parameters": {"p": 1, "q": "a"}, "data": {"d": "1"}}
    after = {"cells": ["a", "b"], "modules": {"companion.y": "1"}, "parameters": {"p": 2}, "data": {}, "portable": True}
    assert difference(json.loads(json.dumps(before)), after) == [
        "chapter.py has 2 code cells instead of 1",
        "lib/companion/x.py is no longer used",
        "lib/companion/y.py is newly used",
        "parameter p 1 -> 2",
        'parameter q "a" -> (none)',
        "data set d is no longer used",
        "portable None -> True",
    ]
