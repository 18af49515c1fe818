"""The text gate: nbval runs a chapter again and holds its canonical text against the committed reference notebook."""

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import nbformat

from companion.errors import CompanionError
from companion.press.gates import Report, Row, compare_exactly, no_reference, unreadable
from companion.press.kernel import set_environment
from companion.press.project import Project

TAG = "nbval-check-output"  # on the cells that print canonical text
SANITISER = Path(__file__).with_name("nbval_sanitize.cfg")
PICTURES = ("image/png", "image/jpeg")  # nbval does not compare them; the figure gate does
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def text_gate(project: Project, reference: Path, run: Path, slug: str, cell_timeout: float) -> Report:
    """Run the chapter of the folder `run` under nbval with the canonical text of the folder `reference`.

    The cells are today's (those of the finished run), the expected outputs of its canonical cells are the
    reference's, in order; so an edit elsewhere in the chapter needs no new reference.
    cell_timeout: in seconds. One thread and a pinned vector width, as in the run that made the reference.
    """
    path = reference / "chapter.ipynb"
    if not path.is_file():
        raise no_reference(path, slug)
    expected = canonical_cells(_read(path, slug))
    notebook = reference_notebook(_read(run / "chapter.ipynb", slug))
    cells = canonical_cells(notebook)
    if not cells:
        raise CompanionError(
            f"chapter {slug} has no cell tagged {TAG}, so there is no canonical text to check. Tag a cell that prints "
            "verdict lines or rounded numbers with recorder.say()."
        )
    if len(cells) != len(expected):
        return Report("text", (compare_exactly("number of canonical cells", len(expected), len(cells)),))
    for cell, then in zip(cells, expected, strict=True):
        cell.outputs = then.outputs
    return _report(notebook, run_nbval(project, notebook, slug, cell_timeout))


def reference_notebook(executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the part of an executed notebook that is committed: code cells, and the outputs of canonical cells.

    Prose, pictures, other outputs, timings and papermill's metadata are left out. The execution counts become 1, 2,
    ...: without them nbval would take a cell for one that was never run, and compare nothing.
    """
    cells = []
    for number, cell in enumerate((cell for cell in executed.cells if cell.cell_type == "code"), 1):
        tags = list(cell.metadata.get("tags", []))
        new = nbformat.v4.new_code_cell(cell.source, id=f"code-{number}", execution_count=number)
        new.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        new.outputs = [_plain(output) for output in cell.outputs] if TAG in tags else []
        cells.append(new)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def canonical_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return the code cells whose output is canonical text."""
    return [c for c in notebook.cells if c.cell_type == "code" and TAG in c.metadata.get("tags", [])]


def _plain(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    output = nbformat.from_dict(output)
    if "data" in output:
        output.data = {kind: value for kind, value in output.data.items() if kind not in PICTURES}
        output.metadata = {}
    if "execution_count" in output:
        output.execution_count = None
    return output


def _read(path: Path, slug: str) -> nbformat.NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises many kinds for a damaged file
        raise unreadable(path, slug, error) from None


def run_nbval(project: Project, notebook: nbformat.NotebookNode, slug: str, cell_timeout: float) -> list[str | None]:
    """Run `notebook` under nbval (lax) and return, for each code cell, None or how it differs or failed."""
    scratch = project.build / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nbval-", dir=scratch) as name:
        work = Path(name) / "work"  # the kernel's working folder
        work.mkdir()
        nbformat.write(notebook, work / "chapter.ipynb")
        (work / "pytest.ini").write_text("[pytest]\n")  # keeps the project's own settings and conftest out
        command = [
            sys.executable,
            "-m",
            "companion.press.gate_text",
            str(project.root),
            str(project.store),
            slug,
            str(cell_timeout),
        ]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        report = work / "report.xml"
        if done.returncode not in (0, 1) or not report.is_file():
            last = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
            raise CompanionError(f"nbval could not run (exit status {done.returncode}):\n{last}")
        outcomes = [_outcome(case) for case in ElementTree.parse(report).iter("testcase")]
    if len(outcomes) != len(notebook.cells):
        raise CompanionError(f"nbval reported {len(outcomes)} cells of {len(notebook.cells)}; run the check again.")
    return outcomes


def main(arguments: list[str]) -> int:
    """Apply nbval to chapter.ipynb in the working folder, in a process of its own and a run's environment."""
    import pytest

    root, store, slug, cell_timeout = arguments
    set_environment(Path("../run").resolve(), Path(root), Path(store), {"chapter": slug}, portable=True)
    os.environ["JUPYTER_RUNTIME_DIR"] = str(Path("../jupyter").resolve())  # connection files leave with the folder
    options = ["-c", "pytest.ini", "-p", "nbval.plugin", "-p", "no:cacheprovider", "-vv", "--color=no"]
    options += ["--junitxml=report.xml", "--nbval-lax", "--nbval-current-env", f"--nbval-sanitize-with={SANITISER}"]
    return pytest.main([*options, f"--nbval-cell-timeout={cell_timeout}", "chapter.ipynb"])


def _outcome(case: ElementTree.Element) -> str | None:
    """Return None for a cell that passed, else nbval's message; a skipped cell was not checked and says so."""
    problem = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
    if problem is None:
        return None
    if problem.tag == "skipped":
        return f"not checked: {problem.get('message') or 'skipped'}"
    return _ANSI.sub("", (problem.text or problem.get("message") or "failed").replace("#x1B", "\x1b"))


def _report(notebook: nbformat.NotebookNode, outcomes: list[str | None]) -> Report:
    rows, details = [], []
    for number, (cell, outcome) in enumerate(zip(notebook.cells, outcomes, strict=True), 1):
        tags = cell.metadata.get("tags", [])
        canonical = TAG in tags
        if outcome and not canonical and outcome.startswith("not checked") and "nbval-skip" in tags:
            continue  # the chapter itself asked for it
        if canonical or outcome:
            what = f"code cell {number}"
            found = "as expected" if outcome is None else _kind(outcome)
            rows.append(Row(what, "canonical text" if canonical else "runs", found, outcome is None))
        if outcome:
            first = next((line for line in cell.source.splitlines() if line.strip()), "")
            details.append(f"code cell {number}, which begins `{first.strip()[:80]}`:\n{readable(outcome)}")
    return Report("text", tuple(rows), tuple(details))


def _kind(outcome: str) -> str:
    if outcome.startswith("not checked"):
        return outcome.splitlines()[0]
    found = re.search(r"^Cell \d+: (.+)$", outcome, re.MULTILINE)
    return found.group(1) if found else outcome.strip().splitlines()[-1][:80]


def readable(message: str) -> str:
    """Return nbval's message about a cell without its source, with the two sides of a difference named.

    pytest marks lines of the reference with + and new ones with -, which reads the wrong way round here.
    """
    _, _, trace = message.partition("Traceback:\n")
    lines = (trace or message).strip("\n").splitlines()
    start = next((i for i, line in enumerate(lines) if "' == '" in line or '" == "' in line), None)
    if start is None:
        return "\n".join(f"    {line}" for line in lines[-25:])
    signs = {"+ ": "reference  ", "- ": "now        ", "  ": "           "}
    shown = [(signs.get(line[2:4]), line[4:].rstrip()) for line in lines[start + 1 :]]
    return "\n".join(f"    {sign}{text}".rstrip() for sign, text in shown if sign and (text or sign.strip()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
