"""A chapter's page: today's prose, the outputs of the fresh run, and nothing stale."""

import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from toy_book import ToyBook

from companion.errors import CompanionError
from companion.press import weave as weaving
from companion.press.apidoc import read_library
from companion.press.edition import read_edition
from companion.press.project import Project


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a toy project whose chapter was run once."""
    toy = ToyBook(tmp_path_factory.mktemp("toy"))
    command = [sys.executable, "-m", "companion.press.cli", "run", "--profile", "laptop"]
    done = subprocess.run(command, cwd=toy.root, env=toy.environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return toy


@pytest.fixture
def toy(finished, tmp_path, monkeypatch):
    """Return a copy of the project, to edit, as the one that commands find."""
    shutil.copytree(finished.root, tmp_path, symlinks=True, dirs_exist_ok=True)
    copy = object.__new__(ToyBook)
    copy.root, copy.environment = tmp_path, {**finished.environment, "COMPANION_ROOT": str(tmp_path)}
    monkeypatch.setenv("COMPANION_ROOT", str(tmp_path))
    for name in ("COMPANION_BUILD", "COMPANION_STORE"):
        monkeypatch.delenv(name, raising=False)
    return copy


def woven(toy) -> nbformat.NotebookNode:
    """Return the page of the toy chapter."""
    edition = read_edition(Project(toy.root), "laptop")
    library = read_library(toy.root / "lib" / "companion")
    return weaving.weave(edition, edition.chapters["belt"], library)


def prose(notebook) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_the_page_is_a_valid_notebook_without_markers(toy):
    notebook = woven(toy)
    nbformat.validate(notebook)
    assert "<!-- press:" not in prose(notebook)
    assert nbformat.writes(notebook) == nbformat.writes(woven(toy))


def test_figures_have_their_texts_and_their_record(toy):
    text = prose(woven(toy))
    assert ":alt: A line that rises from zero." in text
    assert "A line, $y = x$." in text
    assert text.count("How this figure was made") == 1
    first, last = map(int, re.search(r"chapter.py#L(\d+)-L(\d+)", text).groups())
    lines = (toy.root / "notebooks/belt/chapter.py").read_text().splitlines()[first - 1 : last]
    assert lines[0] == "# %%" and any("run.figure(" in line for line in lines)
    key = next((toy.root / "build/runs/laptop/belt/seed-0").iterdir()).name
    assert f'<code title="{key}">' in text
    assert 'href="../runs/laptop/belt/seed-0/arrays/line.npz"' in text
    assert 'href="../runs/laptop/belt/seed-0/tables/squares.csv"' in text


def test_lines_are_those_of_the_commit_of_the_run(toy):
    def git(*arguments):
        identity = ("-c", "user.name=toy", "-c", "user.email=toy@example.org")
        done = subprocess.run(["git", *identity, *arguments], cwd=toy.root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    git("add", "notebooks")
    git("commit", "-q", "-m", "toy")
    commit = git("rev-parse", "HEAD")
    (record,) = (toy.root / "build/runs/laptop/belt/seed-0").glob("*/record.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "commit": commit}))
    before = re.findall(r"blob/(\w+)/notebooks/belt/chapter.py#(L\d+-L\d+)", prose(woven(toy)))
    toy.edit("notebooks/belt/chapter.py", "# A toy of BELT\n", "# A toy of BELT\n#\n# Two more lines.\n")
    after = re.findall(r"blob/(\w+)/notebooks/belt/chapter.py#(L\d+-L\d+)", prose(woven(toy)))
    assert before == after and {found for found, _ in after} == {commit}


def test_prose_and_comments_are_todays(toy):
    toy.edit("notebooks/belt/chapter.py", "A rare word", "An unusual word")
    toy.edit("notebooks/belt/chapter.py", "frame = pd.DataFrame", "# squares, small\nframe = pd.DataFrame")
    notebook = woven(toy)
    assert "An unusual word" in prose(notebook)
    assert any("# squares, small" in cell.source for cell in notebook.cells)


def test_a_new_paragraph_between_cells_needs_no_new_run(toy):
    before = [cell.outputs for cell in woven(toy).cells if cell.cell_type == "code"]
    path = toy.root / "notebooks" / "belt" / "chapter.py"
    first_code = path.read_text().index("\n# %%\n")
    text = path.read_text()
    path.write_text(text[:first_code] + "\n# %% [markdown]\n# One more paragraph.\n" + text[first_code:])
    notebook = woven(toy)
    assert "One more paragraph." in prose(notebook)
    assert [cell.outputs for cell in notebook.cells if cell.cell_type == "code"] == before


def test_a_value_that_a_cell_merely_ends_with_is_not_printed(toy):
    (path,) = (toy.root / "build/runs/laptop/belt/seed-0").glob("*/chapter.ipynb")
    executed = nbformat.read(path, as_version=4)
    cell = next(cell for cell in executed.cells if cell.cell_type == "code" and not cell.outputs)
    for data in ({"text/plain": "<Legend object at 0x7f>"}, {"text/plain": "table", "text/html": "<b>a table</b>"}):
        cell.outputs.append(nbformat.v4.new_output("execute_result", data, execution_count=1))
    nbformat.write(executed, path)
    shown = json.dumps(
        [output.data for cell in woven(toy).cells for output in cell.get("outputs", []) if "data" in output]
    )
    assert "a table" in shown and "Legend" not in shown


def test_claims_artifacts_and_deviations_are_printed(toy):
    text = prose(woven(toy))
    for status in ("held", "partly", "failed", "not tested"):
        assert f'class="verdict verdict-{status.replace(" ", "-")}"' in text
    assert "1 of the 9 seeds it needs" in text
    assert "toy.double = 6" in text
    assert 'href="#fig-belt-line"' in text and "It needs a cluster." in text
    assert "<msup><mn>10</mn><mn>6</mn></msup>" in text  # $10^6$ of the deviation
    assert "6 % [5, 7], n = 3" in text


def test_edited_code_makes_the_run_stale_and_unprintable(toy):
    toy.edit("notebooks/belt/chapter.py", "n * n for n", "n * n + 1 for n")
    edition = read_edition(Project(toy.root), "laptop")
    assert edition.printed(edition.chapters["belt"]) is None
    page = weaving.failed_page(edition, edition.chapters["belt"])
    assert "not run yet" in page and "a stale one is never printed" in page


def test_a_run_under_a_key_that_is_not_its_own_is_a_build_error(toy):
    (folder,) = (toy.root / "build/runs/laptop/belt/seed-0").iterdir()
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**record, "key": "0" * 32}))
    with pytest.raises(CompanionError, match="its key is not today's"):
        woven(toy)


def test_an_executed_notebook_with_other_code_is_a_build_error(toy):
    (path,) = (toy.root / "build/runs/laptop/belt/seed-0").glob("*/chapter.ipynb")
    path.write_text(path.read_text().replace("2 * size", "3 * size"))
    with pytest.raises(CompanionError, match="not what the run executed"):
        woven(toy)


def test_an_unknown_marker_is_named(toy):
    toy.edit("notebooks/belt/chapter.py", "press:record", "press:recrod")
    with pytest.raises(CompanionError, match=r"press:recrod.*expected one of badge, claims"):
        woven(toy)


def test_an_artifact_by_a_figure_that_is_not_there_is_named(toy):
    path = toy.root / "notebooks/belt/paper.yml"
    path.write_text(path.read_text().replace("by: line", "by: lime"))
    with pytest.raises(CompanionError, match=r"'lime'.*recorded only line, squares"):
        woven(toy)


def test_long_cells_fold_and_the_last_call_is_hidden(toy):
    cells = [cell for cell in woven(toy).cells if cell.cell_type == "code"]
    tags = {cell.source.splitlines()[0]: cell.metadata.tags for cell in cells}
    assert tags['profile = "laptop"'] == ["hide-input"]
    assert tags["import matplotlib"] == ["hide-input"]
    assert tags["figure, axes = plt.subplots(figsize=(6, 2.5))"] == []
    assert tags["run.finish()"] == ["remove-cell"]


def test_library_functions_are_linked(toy):
    assert "{py:obj}`derive_seed <companion.seeding.derive_seed>`" in prose(woven(toy))


def test_recorded_runs_are_told_from_fresh_ones_and_stale_ones_say_why(toy):
    (folder,) = (toy.root / "build/runs/laptop/belt/seed-0").iterdir()
    record, results = (json.loads((folder / f"{name}.json").read_text()) for name in ("record", "results"))
    record = {**record, "seed": 4, "key": "1" * 32, "parts": {**record["parts"], "lock": "another"}}
    path = toy.root / "results/laptop/belt/seed-4.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"record": record, "results": {**results, "seed": 4}}))
    text = prose(woven(toy))
    assert "recorded earlier, stale: seed 4" in text
    assert "requirements.lock changed" in text
    assert "2 of 2 seeds" in text


def test_a_failure_is_shown_as_text(toy):
    edition = read_edition(Project(toy.root), "laptop")
    failure = {"profile": "laptop", "seed": 0, "kind": "dead kernel", "cell": 3, "message": "<b>gone</b>"}
    failure |= {"traceback": "\x1b[31mred\x1b[0m\n\nline", "when": "2025-01-02T03:04:05+00:00", "notebook": None}
    chapter = edition.chapters["belt"]
    broken = type(chapter)(chapter.paper, chapter.card, failures=(failure,))
    page = weaving.failed_page(edition, broken)
    assert "dead kernel" in page and "&lt;b&gt;gone&lt;/b&gt;" in page
    assert "red\n\nline" in page and "\x1b" not in page
    assert "cell 3" in page and os.fspath(toy.root) not in page
