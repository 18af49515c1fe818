"""What a result depends on in the code: digests of modules, and which modules a piece of code reaches.

A digest is taken over a module's syntax tree without docstrings, comments and formatting, so that an edit of prose
leaves it as it is, and it is the same on every Python from 3.11. The top of this module needs the standard library
only.
"""

import ast
import hashlib
import importlib.util
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from companion.errors import CompanionError

PACKAGE = "companion"
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
MAGIC = re.compile(r"^(?P<indent>[ \t]*)(?P<magic>[%!?].*|\S.*\?)$", re.MULTILINE)


def code_digest(text: str) -> str:
    """Return the sha256 (hexadecimal) of Python code without its docstrings, comments and formatting.

    text: a module, or a cell of a notebook; lines of IPython magic (`%matplotlib inline`) count as they are written.
    Raises `CompanionError` when it is not Python.

    >>> code_digest("x = 1  # one") == code_digest("x=1")
    True
    """
    tree, magics = _parse(text)
    return hashlib.sha256("\n".join([_dump(_without_docstrings(tree)), *magics]).encode()).hexdigest()


def imported_modules(text: str, package: str = PACKAGE) -> frozenset[str]:
    """Return the modules of `package` that a piece of code imports itself, wherever in it the import stands.

    `from companion.x import y` names companion.x.y where that is a module, and companion.x otherwise. Lines of IPython
    magic are passed over. Raises `CompanionError` for a module that the package does not have, and for what is not
    Python.
    """
    tree, _ = _parse(text)
    files, found = _module_files(package), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if _inside(alias.name, package))
        elif isinstance(node, ast.ImportFrom) and not node.level and _inside(node.module, package):
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update([node.module], files.keys() & named)
    for name in found:
        _module_file(name, package)
    return frozenset(found)


def reach(names: Iterable[str], package: str = PACKAGE) -> frozenset[str]:
    """Return every module of `package` that `names` import, directly or not, with themselves and their parents.

    The parents' `__init__` run whenever a module is imported, so they and what they import count too.
    Raises `CompanionError` for a name that is not a module of the package.
    """
    waiting, found = set(names), set()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        _module_file(name, package)
        found.add(name)
        waiting |= _graph(package).find_upstream_modules(name)
        if "." in name:
            waiting.add(name.rpartition(".")[0])
        waiting -= found
    return frozenset(found)


def module_digest(name: str, package: str = PACKAGE) -> str:
    """Return the `code_digest` of the module `name` as it stands on disk; raises `CompanionError` if there is none."""
    return _file_digest(_module_file(name, package))


def sources_digest(names: Iterable[str], package: str = PACKAGE) -> str:
    """Return one digest over the names and digests of every module that `names` reach."""
    lines = [f"{name} {module_digest(name, package)}" for name in sorted(reach(names, package))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def forget() -> None:
    """Read the package anew at the next call; within a process it is read once, as Python imports it once."""
    for function in (_graph, _module_files, _file_digest):
        function.cache_clear()


@cache
def _graph(package: str):
    import grimp  # here, because the digests of code need no more than the standard library

    try:
        return grimp.build_graph(package, include_external_packages=False, cache_dir=None)
    except grimp.exceptions.SourceSyntaxError as error:
        raise CompanionError(f"cannot read the imports of {package}: {error}. Mend that file.") from error


@cache
def _module_files(package: str) -> dict[str, Path]:
    """Return the file of every module of the package, at the place that it is imported from."""
    root = Path(importlib.util.find_spec(package).origin).parent
    files = {}
    for path in sorted(root.rglob("*.py")):
        parts = [package, *path.relative_to(root).with_suffix("").parts]
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def _module_file(name: str, package: str) -> Path:
    files = _module_files(package)
    if name not in files:
        raise CompanionError(
            f'"{name}" is not a module of {package} (looked in {files[package].parent}): expected a name such as '
            f"{package}.training. Check its spelling where it is imported or listed."
        )
    return files[name]


@cache
def _file_digest(path: Path) -> str:
    try:
        return code_digest(path.read_text(encoding="utf-8"))
    except CompanionError as error:
        raise CompanionError(f"{path}: {error}") from error


def _inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _parse(text: str) -> tuple[ast.Module, list[str]]:
    """Return the syntax tree of a piece of code, and its lines of IPython magic if it has any."""
    try:
        return ast.parse(text), []
    except SyntaxError:  # only then look for magics: a line of a long expression may well start with "%"
        magics = [match["magic"].rstrip() for match in MAGIC.finditer(text)]
    try:
        return ast.parse(MAGIC.sub(r"\g<indent>pass", text)), magics
    except SyntaxError as error:
        raise CompanionError(
            f"not Python, at line {error.lineno}: {error.msg} ({(error.text or '').strip()})"
        ) from error


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return tree


def _dump(value: object) -> str:
    """Write a syntax tree in a form of our own, as `ast.dump` differs between versions of Python."""
    if isinstance(value, ast.AST):
        fields = [
            (name, _parts(child) if isinstance(value, ast.JoinedStr) else child) for name, child in _fields(value)
        ]
        return f"{type(value).__name__}({', '.join(f'{name}={_dump(child)}' for name, child in fields)})"
    if isinstance(value, list):
        return f"[{', '.join(map(_dump, value))}]"
    return ascii(value)  # not repr, which writes a character as it is once that Python's Unicode tables know it


def _fields(node: ast.AST) -> list[tuple[str, object]]:
    """Return the fields that say something: later versions add fields, which are empty in code of an earlier one."""
    return [
        (name, child)
        for name, child in ast.iter_fields(node)
        if name not in ("ctx", "kind") and child is not None and child != []
    ]


def _parts(values: list[ast.expr]) -> list[ast.expr]:
    """Join neighbouring texts of an f-string and drop empty ones, where versions of Python differ."""
    parts = []
    for part in values:
        if isinstance(part, ast.Constant) and parts and isinstance(parts[-1], ast.Constant):
            parts[-1] = ast.Constant(parts[-1].value + part.value)
        elif not (isinstance(part, ast.Constant) and part.value == ""):
            parts.append(part)
    return parts
