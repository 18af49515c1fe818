"""`companion lint`: unseeded randomness in library and notebooks, the house rules of notebooks, and the cards."""

import argparse
import ast
import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.myst_blocks import myst_block_plugin

import companion
from companion.errors import CompanionError
from companion.press.card import Card, card_path, chapter_path, load_card
from companion.press.convert import PARAMETERS_TAG, Cell, parameters, read_cells, to_notebook
from companion.press.expressions import parse_expression
from companion.press.keys import resolve_parameters
from companion.press.project import Project
from companion.press.randomness import Finding, unseeded

USUAL_LINES, MOST_LINES, FUNCTION_LINES = 15, 25, 5
TEXTS = {"figure": ("alt", "caption"), "table": ("caption",)}
LOST = {"myst_line_comment": "%", "myst_block_break": "+++"}
DIRECTIVE = re.compile(r"\{(?!code|math|raw)")  # those that hold prose, such as {exercise}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `companion lint`."""
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="chapters to check (default: library and all)")
    parser.set_defaults(function=run)


def run(options: argparse.Namespace) -> int:
    """Print every finding; the status is 1 if one of them is an error."""
    findings = lint(Project.find(), options.chapters)
    for finding in findings:
        print(finding)
    errors = sum(finding.error for finding in findings)
    print(f"{errors} errors, {len(findings) - errors} hints")
    return 1 if errors else 0


def lint(project: Project, slugs: list[str] | None = None) -> list[Finding]:
    """Return the findings in these chapters, or in the library and all chapters."""
    findings = []
    if not slugs:
        root = project.root / "lib" / companion.__name__
        for path in sorted(root.rglob("*.py")):
            findings += unseeded(path.read_text(encoding="utf-8"), path.relative_to(project.root).as_posix())
    for slug in slugs or project.slugs():
        findings += lint_chapter(project, slug)
    return findings


def lint_chapter(project: Project, slug: str) -> list[Finding]:
    """Return the findings in one chapter and its card."""
    path = chapter_path(project, slug)
    name, card_name = f"notebooks/{slug}/chapter.py", f"notebooks/{slug}/paper.yml"
    if not card_path(project, slug).is_file():
        load_card(project, slug)  # says that there is no such chapter
    try:
        to_notebook(path)
        cells = read_cells(path)
    except CompanionError as error:
        return [Finding(name, 1, "chapter", str(error))]
    code = _code_in_place(cells)
    findings = unseeded(code, name)
    if any(finding.rule == "syntax" for finding in findings):
        return findings
    for cell in cells:
        if cell.kind == "code":
            findings += _cell_findings(cell, name)
        elif cell.kind == "markdown":
            findings += _prose_findings(cell.source, cell.first_line + 1, name)
    findings += _recording_findings(ast.parse(code), cells, name)
    try:
        parameters(cells, name)
        findings += _card_findings(project, load_card(project, slug), cells, ast.parse(code), card_name)
    except CompanionError as error:
        findings.append(Finding(name if str(error).startswith(name) else card_name, 1, "card", str(error)))
    return sorted(findings, key=lambda finding: (finding.path, finding.line))


def _code_in_place(cells: list[Cell]) -> str:
    """Return the code cells as one text in which every line keeps its number."""
    lines: list[str] = []
    for cell in cells:
        if cell.kind == "code":
            lines += [""] * (cell.first_line - len(lines))
            lines += cell.source.splitlines()
    return "\n".join(lines)


def _cell_findings(cell: Cell, name: str) -> Iterator[Finding]:
    lines = [line for line in cell.source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) > USUAL_LINES and PARAMETERS_TAG not in cell.tags:
        advice = f"{len(lines)} lines of code; expected about {USUAL_LINES}: split the cell or move code to the library"
        yield Finding(name, cell.first_line, "long-cell", advice, error=len(lines) > MOST_LINES)
    for node in ast.walk(ast.parse(cell.source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES:
                advice = f"{node.name} has {length} lines; expected at most {FUNCTION_LINES}: move it to the library"
                yield Finding(name, cell.first_line + node.lineno, "long-function", advice)


def _prose_findings(text: str, first_line: int, name: str) -> Iterator[Finding]:
    """Find prose that the page would lose, because MyST takes a line's beginning for a comment or a block break."""
    myst = MarkdownIt("commonmark").use(myst_block_plugin).use(dollarmath_plugin).use(colon_fence_plugin)
    for token in myst.parse(text):
        if token.type in LOST:
            advice = (
                f"a line that begins with {LOST[token.type]} is no text to MyST, and the page loses "
                f"{token.content.strip()[:40]!r}: break the line elsewhere, or use <!-- --> for a comment"
            )
            yield Finding(name, first_line + token.map[0], "lost-prose", advice)
        elif token.type in ("fence", "colon_fence") and DIRECTIVE.match(token.info):
            yield from _prose_findings(token.content, first_line + token.map[0] + 1, name)


def _recording_findings(tree: ast.Module, cells: list[Cell], name: str) -> Iterator[Finding]:
    """Check that the chapter begins, finishes and describes what it shows."""
    for call in _recorder_calls(tree):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        for text in TEXTS.get(call.func.attr, ()):
            value = given.get(text)
            if None not in given and (value is None or (isinstance(value, ast.Constant) and not value.value)):
                yield Finding(
                    name, call.lineno, f"no-{text}", f"this {call.func.attr} has no {text}=; say what it shows"
                )
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr == "show":
            yield Finding(name, call.lineno, "unrecorded", "show() records nothing; use the recorder's figure()")
    begins = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "begin"]
    if len(begins) != 1:
        yield Finding(name, 1, "begin", f"begin() is called {len(begins)} times; expected once")
    code = [cell for cell in cells if cell.kind == "code"]
    finishes = [call.lineno for call in _recorder_calls(tree) if call.func.attr == "finish"]
    if not finishes or finishes[-1] < code[-1].first_line:
        yield Finding(name, code[-1].first_line if code else 1, "finish", "the last code cell must call finish()")


def _recorder_calls(tree: ast.Module) -> list[ast.Call]:
    """Return the calls of methods of what begin() returned."""
    recorders = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.func, ast.Name) and node.value.func.id == "begin"
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return [call for call in calls if isinstance(call.func.value, ast.Name) and call.func.value.id in recorders]


def _card_findings(project: Project, card: Card, cells: list[Cell], tree: ast.Module, name: str) -> Iterator[Finding]:
    """Check what card and chapter, data and claims say of each other."""
    from companion.data import manifest

    for profile in card.profiles.values():
        problem = _problem(resolve_parameters, project, card, profile.name)
        if problem:
            yield Finding(name, 1, "parameters", problem)
        for data in profile.data:
            problem = _problem(manifest.load_manifest, data)
            if problem:
                yield Finding(name, 1, "data", f"profiles.{profile.name}.data: {problem}")
    yield from _default_findings(card, cells, name)
    for claim in card.claims:
        for test in claim.tests:
            problem = _problem(parse_expression, test.expression, f"claim {claim.id}, {test.name}")
            if problem:
                yield Finding(name, 1, "claim", problem)
    shown = [call for call in _recorder_calls(tree) if call.func.attr in TEXTS and call.args]
    names = {(call.func.attr, call.args[0].value) for call in shown if isinstance(call.args[0], ast.Constant)}
    computed = {call.func.attr for call in shown if not isinstance(call.args[0], ast.Constant)}
    for artifact in card.artifacts:
        if artifact.by and (artifact.kind, artifact.by) not in names and artifact.kind not in computed:
            message = f"artifact {artifact.id}: the chapter records no {artifact.kind} {artifact.by!r}"
            yield Finding(name, 1, "artifact", message)


def _default_findings(card: Card, cells: list[Cell], name: str) -> Iterator[Finding]:
    """Check that who opens the chapter in JupyterLab gets the laptop run: the parameters cell holds its values."""
    if "laptop" not in card.profiles:
        return
    laptop = card.profiles["laptop"]
    expected = {"profile": "laptop", "seed": laptop.seeds[0], **laptop.parameters}
    for key, parameter in parameters(cells, name).items():
        if key in expected and parameter.value != expected[key]:
            message = (
                f"profiles.laptop: {key} is {expected[key]!r}, but the parameters cell (chapter.py, line "
                f"{parameter.line}) says {parameter.value!r}; expected the same value"
            )
            yield Finding(name, 1, "parameters", message)


def _problem(function, *arguments) -> str | None:
    """Return what a function complains about when called, or None."""
    try:
        function(*arguments)
    except CompanionError as error:
        return str(error)
    return None
