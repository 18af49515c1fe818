import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import companion
from companion import sources
from companion.errors import CompanionError
from companion.sources import code_digest, imported_modules, module_digest, reach, sources_digest

LIB = Path(companion.__file__).parent.parent

FILES = {
    "__init__.py": '"""A package."""\n',
    "alone.py": "X = 1\n",
    "base.py": '"""The base."""\n\n\ndef one():\n    """Return one."""\n    return 1  # one\n',
    "middle.py": "from {package} import base\nfrom {package}.deep.leaf import LEAF\n",
    "top.py": "def late():\n    import {package}.middle\n    return {package}.middle\n",
    "deep/__init__.py": "from {package} import reached_by_parent\n",
    "deep/leaf.py": "LEAF = 2\n",
    "reached_by_parent.py": "Y = 3\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    name = f"package_{abs(hash(request.node.name))}"
    for path, text in FILES.items():
        file = tmp_path / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.format(package=name))
    monkeypatch.syspath_prepend(tmp_path)
    return Package(name, tmp_path / name)


class Package:
    def __init__(self, name, root):
        self.name, self.root = name, root

    def edit(self, path, old, new):
        file = self.root / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        sources.forget()

    def names(self, *modules):
        return {f"{self.name}.{module}" for module in modules} | {self.name}

    def digest(self, module):
        return sources_digest([f"{self.name}.{module}"], self.name)


CODE = """
import os

class Thing:
    '''A thing.'''
    size = 3

    def grow(self, by=1):
        "Grow."
        # a comment
        return self.size + by  # more

text = ('it' "s") + f'{text!r}'
"""


@pytest.mark.parametrize(
    "change",
    [
        lambda code: code.replace("A thing.", "Another thing,\n    told at length."),
        lambda code: code.replace("    '''A thing.'''\n", ""),
        lambda code: code.replace('        "Grow."\n', ""),
        lambda code: '"""A module."""\n' + code,
        lambda code: code.replace("a comment", "another comment").replace("  # more", ""),
        lambda code: code.replace("\n\n", "\n\n\n\n").replace("size = 3", "size=(3)").replace("    ", "  "),
        lambda code: code.replace("'it' \"s\"", "'its'"),
        lambda code: code.replace("\n", "\r\n"),
    ],
)
def test_prose_and_formatting_leave_the_digest(change):
    assert change(CODE) != CODE
    assert code_digest(change(CODE)) == code_digest(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("size = 3", "size = 4"),
        ("size = 3", "size = 3.0"),
        ("size = 3", "size = True"),
        ("size = 3", "size = None"),
        ("by=1", "by=2"),
        ("by=1", "by"),
        ("by=1", "*, by=1"),
        ("self.size + by", "self.size - by"),
        ("return ", ""),
        ("import os", "import sys as os"),
        ("'it'", "'It'"),
        ("'it' \"s\"", "b'its'"),
        ("!r", "!s"),
        ("!r", ":r"),
        ("Thing", "Thing(dict)"),
        ("class Thing", "@final\nclass Thing"),
    ],
)
def test_an_edit_of_code_changes_the_digest(old, new):
    assert old in CODE
    assert code_digest(CODE.replace(old, new)) != code_digest(CODE)


@given(st.recursive(st.integers() | st.text() | st.none() | st.floats(allow_nan=False, allow_infinity=False), st.lists))
def test_the_digest_of_a_constant_does_not_depend_on_how_it_is_written(value):
    assert code_digest(f"x = {value!r}") == code_digest(f"x = ({value!a})")
    assert code_digest(f"x = {value!r}") != code_digest(f"x = [{value!r}]")


GRAMMAR = '''
"""A module that uses what versions of Python dump differently."""
async def f(a, /, b: int = 3, *args, c, k=None, **kw) -> list[int]:
    async with a as b, c: await d
    async for i in x: yield i
class A(B, metaclass=C):
    "only a docstring"
class D:
    u = u"unicode"
    l = lambda *, a=1, **k: {**k, "a": [*a], None: ...}
x = f"a{x}b" "c" f"{y!r:>{w}}d{z=}" f"{x:}" f"{x:%Y-%m}" f"q{{}}{x = }" rf"\\d{x}" f"{'n' + f'{x}'}" f""
n = "a\U0001fae8\u0378é" + str(1_000) + str(1e400) + str(3j) + str(-0.0) + b"\\xff".decode()
try: pass
except* E: pass
match v:
    case {"a": 1, **rest}: pass
    case [1, *_] | None | True | A(x=1, y=b) if b: pass
while (n := 1) < 2 <= 3 and not 4: a[1:2, ...] @= ~b
y = [i async for i in x if i if j for k in l], {i for i in x}, {i: j for i in x}, (i for i in x), x if y else z
'''


def pythons():
    """Return every Python from 3.11 that this machine has: at least the one that runs the tests."""
    found = [shutil.which(f"python3.{minor}") for minor in range(11, 16)]
    found += map(str, Path.home().glob(".pyenv/versions/3.1[1-9].*/bin/python"))
    works = [path for path in found if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0]
    return sorted({sys.executable, *works})


def test_the_digest_is_the_same_on_every_python_of_this_machine():
    code = "import sys; from companion.sources import code_digest; print(code_digest(sys.stdin.read()))"
    for python in pythons():
        answer = subprocess.run(
            [python, "-c", code], input=GRAMMAR, env={"PYTHONPATH": str(LIB), "PYTHONUTF8": "1"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert answer.stdout.strip() == RECORDED, f"{python} gives another digest"


RECORDED = "cfc5228b091724398bb5a5d9cc2aa6975ae275accc0f59a26ef881d2659f4d5b"


def test_magics_count_as_they_are_written_and_do_not_stop_the_reading():
    cell = "%matplotlib inline\nif True:\n    !ls\nfrom companion import training\n"
    assert code_digest(cell) != code_digest(cell.replace("inline", "widget"))
    assert code_digest(cell) == code_digest(cell + "# a comment")
    assert imported_modules(cell) == {"companion", "companion.training"}


def test_a_continued_line_that_starts_like_a_magic_is_code():
    assert code_digest("x = (7\n  % 2)") == code_digest("x = 7 % 2")
    assert code_digest("x = '''\n%a'''") != code_digest("x = '''\n%b'''")


def test_what_is_not_python_is_refused_with_its_line():
    with pytest.raises(CompanionError, match="not Python, at line 2"):
        code_digest("x = 1\ny = = 2\n")


def test_imported_modules_of_every_form_of_import():
    code = """
import torch, os.path
import companion.attacks as a, companion.seeding
from companion.models import build
from companion.training import TrainingConfig, train
from companion import metrics, errors
import companionship
def late():
    from companion.statistics import wilson
"""
    assert imported_modules(code) == {
        "companion", "companion.attacks", "companion.seeding", "companion.models", "companion.models.build",
        "companion.training", "companion.metrics", "companion.errors", "companion.statistics",
    }  # fmt: skip


def test_an_import_of_a_module_that_is_not_there_is_refused():
    with pytest.raises(CompanionError, match=r'"companion\.trainning" is not a module of companion'):
        imported_modules("from companion.trainning import train")


def test_reach_is_transitive_and_has_parents_and_their_imports(package):
    everything = package.names("top", "middle", "base", "deep", "deep.leaf", "reached_by_parent")
    assert reach([f"{package.name}.top"], package.name) == everything
    assert reach([f"{package.name}.base"], package.name) == package.names("base")
    assert reach([], package.name) == frozenset()


def test_reach_of_an_unknown_module_is_refused(package):
    with pytest.raises(CompanionError, match=r"nowhere\" is not a module"):
        reach([f"{package.name}.nowhere"], package.name)


def test_an_edit_in_a_reached_module_changes_the_digest_and_no_other_does(package):
    before = package.digest("top")
    package.edit("alone.py", "X = 1", "X = 2")
    assert package.digest("top") == before
    package.edit("base.py", "Return one.", "Return the number one.")
    package.edit("base.py", "# one", "# 1")
    assert package.digest("top") == before
    package.edit("base.py", "return 1", "return 2")
    changed = package.digest("top")
    assert changed != before
    package.edit("base.py", "return 2", "return 1")
    assert package.digest("top") == before
    package.edit("reached_by_parent.py", "3", "4")
    assert package.digest("top") != before


def test_a_new_import_widens_the_reach(package):
    before = package.digest("base")
    package.edit("base.py", '"""The base."""', f"from {package.name} import alone")
    assert reach([f"{package.name}.base"], package.name) == package.names("base", "alone")
    after = package.digest("base")
    assert after != before
    package.edit("alone.py", "X = 1", "X = 2")
    assert package.digest("base") != after


def test_the_digest_is_read_once_a_process_until_told_to_forget(package):
    name = f"{package.name}.alone"
    before = module_digest(name, package.name)
    (package.root / "alone.py").write_text("X = 2\n")
    assert module_digest(name, package.name) == before
    sources.forget()
    assert module_digest(name, package.name) == code_digest("X = 2")


def test_a_module_that_cannot_be_parsed_is_named(package):
    package.edit("base.py", "return 1", "return = 1")
    with pytest.raises(CompanionError, match=r"base\.py"):
        package.digest("top")
    with pytest.raises(CompanionError, match=r"base\.py: not Python, at line 6"):
        module_digest(f"{package.name}.base", package.name)


def test_the_library_itself_science_does_not_reach_the_press():
    found = reach(["companion.training", "companion.metrics", "companion.store", "companion.models.build"])
    assert {"companion", "companion.errors", "companion.models.small", "companion.statistics"} <= found
    assert not any(name.startswith("companion.press") for name in found)
