"""`companion build`: from nothing, unchanged, after an edit of prose, with a warning; and how pages are swapped."""

import json
import os
import threading
import time

import pytest
from toy_book import ToyBook

from companion.press import printing
from companion.press.project import Project


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Return a toy project, printed once; one of its two chapters fails. The tests below go on from each other."""
    toy = ToyBook(tmp_path_factory.mktemp("toy"), ("belt", "flba"))
    toy.first = toy.build("--jobs", "2")
    return toy


def page(toy, name: str) -> str:
    return (toy.html / name).read_text(encoding="utf-8")


@pytest.mark.xdist_group("toy-book")
class TestTheCommand:
    def test_a_failed_chapter_has_a_page_that_says_what_failed_and_the_others_are_printed(self, toy):
        assert toy.first.returncode == 1, toy.first.stdout + toy.first.stderr
        assert "The double of three is" in page(toy, "chapters/belt.html")
        failed = page(toy, "chapters/flba.html")
        assert "exception" in failed and "ValueError: the toy &lt;broke&gt; here" in failed
        assert "run failed" in page(toy, "index.html")
        status = json.loads(page(toy, "status.json"))
        assert {run["chapter"]: run["state"] for run in status["runs"]} == {"belt": "fresh", "flba": "failed"}

    def test_nothing_changed_prints_nothing_and_still_says_what_failed(self, toy):
        log = (toy.root / "build/logs/book.log").stat().st_mtime_ns
        started = time.monotonic()
        done = toy.build("--no-run")
        assert time.monotonic() - started < 5
        assert "up to date" in done.stdout and done.returncode == 1
        assert (toy.root / "build/logs/book.log").stat().st_mtime_ns == log

    def test_prose_runs_nothing_and_prints_only_what_changed(self, toy):
        runs = sorted((toy.root / "build/runs").rglob("*"))
        written = {name: self._written(toy, name) for name in ("glossary.html", "chapters/belt.html")}
        toy.edit("notebooks/belt/chapter.py", "A rare word: xylophone", "A rare word: zyzzyva")
        done = toy.build("--no-run")
        assert "zyzzyva" in page(toy, "chapters/belt.html"), done.stdout + done.stderr
        assert sorted((toy.root / "build/runs").rglob("*")) == runs
        assert self._written(toy, "glossary.html") == written["glossary.html"]
        assert self._written(toy, "chapters/belt.html") != written["chapters/belt.html"]

    @staticmethod
    def _written(toy, name: str) -> int:
        return (toy.root / "build/book/sphinx/_build/html" / name).stat().st_mtime_ns

    def test_a_warning_is_an_error_each_time_and_the_former_book_stays(self, toy):
        before = os.readlink(toy.html), page(toy, "chapters/belt.html")
        toy.edit("notebooks/belt/chapter.py", "{numref}`fig-belt-line`", "{numref}`fig-belt-nothing`")
        for _ in range(2):
            done = toy.build("--no-run")
            assert done.returncode == 2
            assert "chapters/belt.ipynb" in done.stderr and "fig-belt-nothing" in done.stderr
            assert (os.readlink(toy.html), page(toy, "chapters/belt.html")) == before
        toy.edit("notebooks/belt/chapter.py", "{numref}`fig-belt-nothing`", "{numref}`fig-belt-line`")

    def test_stale_runs_are_not_printed(self, toy):
        toy.edit("notebooks/belt/chapter.py", '2 * size, unit="%"', '2.5 * size, unit="%"')
        done = toy.build("--no-run")
        assert done.returncode == 1, done.stderr
        shown = page(toy, "chapters/belt.html")
        assert "not run yet" in shown and "6.0" not in shown
        assert not (toy.html / "runs").exists()

    def test_an_unknown_profile_is_named(self, toy):
        done = toy.build("--profile", "labtop", "--no-run")
        assert done.returncode == 2
        assert (
            "no chapter has a profile 'labtop' (did you mean 'laptop'?); expected one of laptop, smoke" in done.stderr
        )


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    monkeypatch.delenv("COMPANION_BUILD", raising=False)
    for name in ("book/a.md", "lib/companion/b.py", "notebooks/c/chapter.py", "data_manifests/d.yml", "results/e.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    for name in ("_config.yml", "requirements.lock"):
        (tmp_path / name).write_text("text")
    return Project(tmp_path)


CHANGES = [
    *("book/a.md", "lib/companion/b.py", "notebooks/c/chapter.py", "data_manifests/d.yml", "results/e.json"),
    *("_config.yml", "requirements.lock", "build/runs/laptop/c/seed-0/k/record.json", "build/gates/smoke/c.json"),
    "build/failures/laptop/c/seed-0/failure.json",
]


@pytest.mark.parametrize("name", CHANGES)
def test_every_input_of_the_book_changes_its_digest(project, name):
    before = printing.input_digest(project, {})
    path = project.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("other")
    assert printing.input_digest(project, {}) != before


def test_other_files_do_not_change_the_digest(project):
    before = printing.input_digest(project, {})
    (project.root / "README.md").write_text("other")
    (project.root / "lib/companion/__pycache__").mkdir()
    (project.root / "lib/companion/__pycache__/b.pyc").write_text("other")
    assert printing.input_digest(project, {}) == before
    assert printing.input_digest(project, {"profile": "smoke"}) != before


def test_staging_touches_only_what_changed(tmp_path):
    source = tmp_path / "file"
    source.write_text("copied")
    printing.stage(tmp_path / "stage", {"a/b.md": "one", "c.md": "two", "d": source})
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "stage").rglob("*") if path.is_file()}
    printing.stage(tmp_path / "stage", {"c.md": "three", "d": source})
    found = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "stage").rglob("*")}
    assert set(found) == {"c.md", "d"}
    assert found["d"] == stamps["d"] and found["c.md"] != stamps["c.md"]


def _pages(project, number: int):
    folder = project.build / "pages"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("index.html", "last.html"):
        (folder / name).write_text(f"{number} " * 2000)
    return folder


def test_a_reader_never_meets_a_half_written_book(project, tmp_path):
    printing.swap(project, printing.assemble(project, _pages(project, 0), tmp_path / "none"), {})
    seen, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            seen.append((printing.html_path(project) / "index.html").read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 40):
        printing.swap(project, printing.assemble(project, _pages(project, number), tmp_path / "none"), {"n": number})
    stop.set()
    reader.join()
    assert len(set(seen)) > 3
    assert all(len(text.split()) == 2000 and len(set(text.split())) == 1 for text in seen)
    assert printing.stamp(project)["n"] == 39


def test_what_a_killed_printing_left_is_removed_by_the_next(project, tmp_path):
    left = printing.assemble(project, _pages(project, 0), tmp_path / "none")
    assert printing.stamp(project) == {} and not printing.html_path(project).exists()
    printing.swap(project, printing.assemble(project, _pages(project, 1), tmp_path / "none"), {})
    assert not left.exists() and (printing.html_path(project) / "index.html").is_file()


def test_a_folder_in_the_place_of_the_book_is_replaced(project, tmp_path):
    printing.html_path(project).mkdir(parents=True)
    printing.swap(project, printing.assemble(project, _pages(project, 1), tmp_path / "none"), {"n": 1})
    assert printing.html_path(project).is_symlink() and printing.stamp(project) == {"n": 1}
