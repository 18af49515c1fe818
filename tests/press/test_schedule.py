"""`companion run` and `companion status` on whole projects: failures of every kind, resumption, any number of jobs."""

import json

import pytest
from miniature import BODY, Miniature

pytestmark = pytest.mark.xdist_group("schedule")  # the tests of a project share it

FAILING = {
    "raises": "# %%\nprint('before')\n\n# %%\nraise ValueError('wrong on purpose')\n\n",
    "dies": "# %%\nimport os\n\nos.kill(os.getpid(), 9)\n\n",
    "sleeps": "# %%\nimport time\n\ntime.sleep(60)\n\n",
    "swells": "# %%\nblocks = []\nwhile True:\n    blocks.append(bytearray(10_000_000))\n\n",
}
CURVE = """\
# %%
import matplotlib.pyplot as plt
import numpy as np

values = np.random.default_rng(seed).normal(size=9)
figure, axis = plt.subplots()
axis.plot(values)
recorder.number("toy.mean", values.mean())
recorder.figure("curve", figure, {"values": values}, alt="A line.", caption="A line.")

"""

KINDS = {"raises": "exception", "dies": "dead kernel", "sleeps": "time-out", "swells": "out of memory", "torn": "card"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a project with one sound chapter, four that fail and one whose card cannot be read, run once."""
    miniature = Miniature(tmp_path_factory.mktemp("failing"))
    miniature.chapter("good")
    for slug, body in FAILING.items():
        miniature.chapter(slug, body)
    miniature.limits("sleeps", cell_timeout=2)
    miniature.limits("swells", memory_mb=400)
    miniature.write("notebooks/torn/paper.yml", "slug: [torn\n")
    miniature.done = miniature.companion("run", "--jobs", "2")
    return miniature


def statuses(project: Miniature) -> dict[str, dict]:
    done = project.companion("status", "--json")
    assert done.returncode == 0, done.stderr
    return {f"{one['chapter']}/{one['profile']}/{one['seed']}": one for one in json.loads(done.stdout)}


def test_the_sound_chapter_is_finished_and_the_status_is_not_zero(project):
    assert project.done.returncode == 1, project.done.stderr
    assert list(project.runs()) == ["laptop/good/seed-0"]
    assert "1 run done, 5 failed" in project.done.stdout
    assert project.failure("good") is None


@pytest.mark.parametrize("slug", KINDS)
def test_each_failure_says_what_and_where(project, slug):
    failure = project.failure(slug)
    assert failure["kind"] == KINDS[slug]
    assert failure["message"].splitlines()[0] in project.done.stdout
    expected = {"raises": 4, "dies": 3, "sleeps": 3, "swells": 3, "torn": None}
    assert failure["cell"] == expected[slug]
    said = {
        "raises": "ValueError: wrong on purpose",
        "dies": "for its memory",
        "sleeps": "not done after 2 s",
        "swells": "memory_mb",
        "torn": "notebooks/torn/paper.yml, line 2, column 1",
    }
    assert said[slug] in failure["message"]


def test_the_notebook_is_kept_as_far_as_it_came(project):
    path = project.root / "build" / "failures" / "laptop" / "raises" / "seed-0" / "chapter.ipynb"
    cells = json.loads(path.read_text())["cells"]
    texts = [output.get("text", output.get("ename")) for cell in cells for output in cell.get("outputs", [])]
    assert texts == [["before\n"], "ValueError"]
    assert "raise ValueError" in project.failure("raises")["traceback"]


def test_the_status_tells_all_of_it(project):
    found = statuses(project)
    assert found["good/laptop/0"]["state"] == "fresh"
    assert found["good/laptop/0"]["device"] == "cpu"
    assert found["good/smoke/0"]["state"] == "missing"
    for slug in FAILING:
        assert found[f"{slug}/laptop/0"]["state"] == "failed"
        assert KINDS[slug] in found[f"{slug}/laptop/0"]["reasons"][0]
    assert found["torn/None/None"]["state"] == "failed"
    assert "good" in project.companion("status").stdout


def test_the_plan_says_what_failed_and_how_long_it_takes(project):
    done = project.companion("run", "raises", "good", "--dry-run")
    assert "the last try failed: exception" in done.stdout
    assert "1 run to do" in done.stdout
    assert "1 run up to date" in done.stdout
    done = project.companion("run", "good", "--force", "--dry-run")
    assert "asked for again" in done.stdout
    assert "about " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (["goood"], "unknown chapter 'goood'", 1),
        (["good", "--profile", "labtop"], "unknown profile 'labtop'", 1),
        (["good", "--set", "siz=1"], "unknown parameter 'siz'", 1),
        (["--profile", "labtop"], "unknown profile 'labtop'", 2),
        (["good", "--set", "size"], "--set size: expected name=value", 2),
        (["good", "--seeds", "1,x"], "'1,x': expected whole numbers", 2),
        (["good", "--jobs", "0"], "'0': expected a whole number", 2),
    ],
)
def test_slips_of_the_command_line_are_named_and_leave_nothing(project, arguments, said, status):
    before = sorted((project.root / "build").rglob("*"))
    done = project.companion("run", *arguments, *(["good"] if "goood" in arguments else []))
    assert done.returncode == status
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert sorted((project.root / "build").rglob("*")) == before


def test_the_next_call_runs_only_what_is_missing(project):
    (good,) = project.runs().values()
    started = json.loads((good / "record.json").read_text())["started"]
    project.edit("notebooks/raises/chapter.py", "raise ValueError('wrong on purpose')", "print('mended')")
    done = project.companion("run", "good", "raises")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 run done, 0 failed, 1 up to date" in done.stdout
    assert json.loads((good / "record.json").read_text())["started"] == started
    assert project.failure("raises") is None
    assert not (project.root / "build" / "failures" / "laptop" / "raises" / "seed-0").exists()
    an_edit_runs_again_exactly_what_depends_on_it(project)


def an_edit_runs_again_exactly_what_depends_on_it(project):
    """Check it on good and raises, which are up to date and whose code differs."""
    project.edit("lib/companion/toys/unreached.py", "THREE = 3", "THREE = 4")
    project.edit("notebooks/good/chapter.py", "# # A toy chapter", "# # A better toy chapter")
    done = project.companion("run", "good", "raises", "--dry-run")
    assert "2 runs up to date" in done.stdout
    project.edit("notebooks/good/chapter.py", "1 / 3", "1 / 4")
    done = project.companion("run", "good", "raises")
    assert "code cell 3 of chapter.py changed" in done.stdout
    assert "1 run done, 0 failed, 1 up to date" in done.stdout
    project.edit("lib/companion/toys/reached.py", "TWO * x", "TWO * x + 1")
    found = statuses(project)
    for slug in ("good", "raises"):
        assert found[f"{slug}/laptop/0"]["state"] == "stale"
        assert found[f"{slug}/laptop/0"]["reasons"] == ["lib/companion/toys/reached.py changed"]


def test_two_jobs_give_the_same_bits_as_one(miniature):
    miniature.chapter("one", CURVE)
    miniature.chapter("two", BODY)
    found = []
    for jobs in ("1", "2"):
        done = miniature.companion("run", "--force", "--jobs", jobs)
        assert done.returncode == 0, done.stdout + done.stderr
        runs = miniature.runs()
        assert len(runs) == 2
        names = ("results.json", "arrays/curve.npz", "figures/curve.png")
        paths = {f"{run}/{name}": folder / name for run, folder in runs.items() for name in names}
        found.append({name: path.read_bytes() for name, path in paths.items() if path.is_file()})
    assert found[0] == found[1]
    assert len(found[0]) == 4
