"""The text gate runs a toy chapter under nbval with a real kernel and fails when its canonical text changes."""

import re

import nbformat
import pytest
from gate_toys import edit, toy_cells, toy_reference, toy_run

from companion.errors import CompanionError
from companion.press.gate_text import SANITISER, canonical_cells, readable, reference_notebook, text_gate
from companion.press.project import Project


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.delenv("COMPANION_BUILD", raising=False)
    return Project(tmp_path)


ENVIRONMENT = """import os
assert os.environ["OMP_NUM_THREADS"] == "1" and os.environ["ATEN_CPU_CAPABILITY"] == "avx2"
assert not os.path.exists(os.environ["COMPANION_RUN_DIR"]) and "PYTEST_XDIST_WORKER" not in os.environ"""


def test_changed_text_and_a_failing_cell_are_shown_and_the_rest_passes(project):
    same = toy_cells("at 0x7f0012345678 after 3.2 s", code=ENVIRONMENT)
    failing = nbformat.v4.new_code_cell("1 / 0", execution_count=5)
    reference = toy_reference(project.root, cells=[*same, *toy_cells()])
    edit(reference / "chapter.ipynb", "after 3.2 s", "after 4.5 s")  # the sanitiser's business
    run = toy_run(project.root / "run", cells=[*same, *toy_cells("asr 97.4 %\\nheld"), failing])
    report = text_gate(project, reference, run.path, "toy", 20)
    assert [(row.what, row.ok) for row in report.rows] == [
        ("code cell 2", True),
        ("code cell 4", False),
        ("code cell 5", False),
    ]
    text = "\n".join(report.lines())
    assert re.search(r"reference +asr 97\.3 %", text) and re.search(r"now +asr 97\.4 %", text)
    assert "ZeroDivisionError" in text and "\x1b" not in text
    assert list((project.build / "tmp").iterdir()) == []


def test_another_number_of_canonical_cells_fails_without_running(project):
    run = toy_run(project.root / "run", cells=[*toy_cells(), *toy_cells()])
    report = text_gate(project, toy_reference(project.root), run.path, "toy", 20)
    (row,) = report.failures
    assert (row.what, row.reference, row.now) == ("number of canonical cells", "1", "2")


def test_a_chapter_without_canonical_text_is_refused(project):
    reference = toy_reference(project.root)
    with pytest.raises(CompanionError, match="no cell tagged nbval-check-output"):
        text_gate(project, reference, toy_run(project.root / "run", cells=toy_cells()[:2]).path, "toy", 20)


def test_a_missing_reference_says_how_to_make_it(project):
    with pytest.raises(CompanionError, match=r"chapter\.ipynb does not exist.*companion reference toy"):
        text_gate(project, project.root / "none", project.root, "toy", 20)


def test_the_reference_notebook_keeps_code_and_canonical_text_only():
    executed = nbformat.v4.new_notebook(cells=toy_cells(), metadata={"papermill": {"duration": 3.0}})
    notebook = reference_notebook(executed)
    nbformat.validate(notebook)
    assert [cell.id for cell in notebook.cells] == ["code-1", "code-2"]
    assert [cell.execution_count for cell in notebook.cells] == [1, 2]  # nbval compares no cell that has none
    assert notebook.cells[0].outputs == [] and notebook.cells[1].outputs[0].text == "asr 97.3 %\nheld\n"
    assert "papermill" not in str(notebook) and "AAAA" not in str(notebook)
    assert reference_notebook(notebook) == notebook


def test_pictures_in_a_canonical_cell_are_left_to_the_figure_gate():
    (cell,) = canonical_cells(nbformat.v4.new_notebook(cells=toy_cells()))
    data = {"image/png": "AAAA", "text/plain": "kept"}
    cell.outputs = [nbformat.v4.new_output("display_data", data, metadata={"image/png": {"alt": "x"}})]
    (output,) = reference_notebook(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs
    assert output.data == {"text/plain": "kept"} and output.metadata == {}


def test_readable_names_the_two_sides():
    message = "Cell 1: x\n\nTraceback:\n mismatch\n  'a\\nb\\n' == 'a\\nc\\n'\n  \n    a\n  - c\n  ? ^\n  + b\n  ? ^\n"
    assert readable(message).splitlines() == ["               a", "    now        c", "    reference  b"]


def sanitised(text: str) -> str:
    pairs = re.findall("^regex: (.*)$\n^replace: (.*)$", SANITISER.read_text(), re.MULTILINE)  # as nbval reads them
    assert len(pairs) == SANITISER.read_text().count("regex:") == 5
    for pattern, replacement in pairs:
        text = re.sub(pattern, replacement, text)
    return text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<Net at 0x7f3a12345678>", "<Net at ADDRESS>"),
        ("begun 2026-01-02T03:04:05.678+00:00", "begun TIME"),
        ("begun 2026-01-02 03:04:05", "begun TIME"),
        ("done in 12.3 s", "done in DURATION"),
        ("done in 80 ms", "done in DURATION"),
        ("saved to /home/someone/build/runs/x.npz", "saved to PATH"),
    ],
)
def test_what_differs_from_run_to_run_is_replaced(text, expected):
    assert sanitised(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "asr.badnets.plain 97.3 % (95.1 to 98.4, n = 500)",
        "claim utility: held in 3/3 seeds, 0.44 to 1.00",
        "asr/accuracy/index 1.25",
        "12 seeds, 3 samples",
        "https://example.org/a/b",
        "0x10 mask, 2024-2025",
    ],
)
def test_numbers_and_verdicts_are_never_replaced(text):
    assert sanitised(text) == text
