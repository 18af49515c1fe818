"""The static check: unseeded randomness is found wherever it hides, seeded code passes, house rules hold."""

import pytest
import yaml
from miniature import card as toy_card

from companion.press.lint import lint, lint_chapter
from companion.press.project import Project
from companion.press.randomness import unseeded

IMPORTS = """\
import random
import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import default_rng
from random import shuffle
from torch import nn, randn
from torch.utils.data import DataLoader
g = torch.Generator()
"""

UNSEEDED = [
    "torch.rand(3)",
    "torch.rand(3, generator=None)",
    "torch.randperm(4)",
    "torch.normal(0.0, 1.0, (2,))",
    "torch.rand_like(x)",
    "randn(2)",
    "x.normal_()",
    "x.clone().uniform_(-1, 1)",
    "x.bernoulli(0.5)",
    "nn.init.kaiming_normal_(x)",
    "torch.nn.init.trunc_normal_(x, std=0.1)",
    "F.dropout(x, 0.5)",
    "nn.Dropout(0.5)",
    "DataLoader(x, shuffle=True)",
    "np.random.rand(3)",
    "np.random.shuffle(x)",
    "default_rng()",
    "np.random.default_rng(None)",
    "np.random.RandomState()",
    "random.random()",
    "shuffle(x)",
    "random.Random()",
    "scipy_distribution.rvs(3)",
    "torch.multinomial(\n    x,\n    2,\n)",
]

SEEDED = [
    "torch.rand(3, generator=g)",
    "torch.randperm(4, generator=g)",
    "torch.randperm(4, **options)",
    "x.normal_(generator=g)",
    "nn.init.kaiming_normal_(x, generator=g)",
    "nn.init.zeros_(x)",
    "DataLoader(x, shuffle=True, generator=g)",
    "DataLoader(x, shuffle=False)",
    "default_rng(3)",
    "np.random.default_rng(seed=s)",
    "np.random.Generator(np.random.PCG64(3))",
    "random.Random(3).random()",
    "rng.normal(0, 1)",
    "rng.random(3)",
    "torch.rand(3)  # lint: seeded by the fork in training.train",
    "torch.rand(\n    3,  # lint: seeded by the caller\n)",
    "with torch.random.fork_rng():\n    torch.manual_seed(3)\n    torch.rand(3)",
    "from companion.multimodal.initialising import initialised_from as drawn\nwith drawn(g):\n    torch.randn(3)",
    "torch.random.fork_rng()",
    "mine.rand(3)",
]


@pytest.mark.parametrize("line", UNSEEDED)
def test_unseeded_draws_are_found(line):
    (finding,) = unseeded(IMPORTS + line, "a.py")
    assert (finding.rule, finding.line, finding.error) == ("unseeded", IMPORTS.count("\n") + 1, True)


@pytest.mark.parametrize("line", SEEDED)
def test_seeded_draws_pass(line):
    assert unseeded(IMPORTS + line, "a.py") == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.manual_seed(0)",
        "torch.cuda.manual_seed_all(0)",
        "np.random.seed(0)",
        "random.seed(0)",
        "torch.default_generator.manual_seed(0)",
    ],
)
def test_global_seeds_are_found(line):
    (finding,) = unseeded(IMPORTS + line, "a.py")
    assert finding.rule == "global-seed"


def test_a_fork_that_is_not_seeded_excuses_nothing():
    assert len(unseeded(IMPORTS + "with torch.random.fork_rng():\n    torch.rand(3)", "a.py")) == 1


def test_a_block_of_the_same_name_from_elsewhere_excuses_nothing():
    assert len(unseeded(IMPORTS + "with initialised_from(g):\n    torch.rand(3)", "a.py")) == 1


def test_an_excuse_must_say_who_seeds():
    assert len(unseeded(IMPORTS + "torch.rand(3)  # lint: seeded by", "a.py")) == 1


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a project with one clean chapter, for which the real library stands in."""
    from miniature import BODY, HEADER, LAST, LOCK, MANIFEST

    monkeypatch.setenv("COMPANION_ROOT", str(tmp_path))
    for folder in ("notebooks/toy", "data_manifests", "lib/companion"):
        (tmp_path / folder).mkdir(parents=True)
    chapter = (
        (HEADER + "\n" + BODY + LAST).replace("SLUG", "toy").replace("toys.reached import double", "errors import X")
    )
    (tmp_path / "notebooks/toy/chapter.py").write_text(chapter)
    (tmp_path / "notebooks/toy/paper.yml").write_text(yaml.safe_dump(toy_card("toy")))
    (tmp_path / "data_manifests/toy_world.yml").write_text(yaml.safe_dump(MANIFEST))
    (tmp_path / "requirements.lock").write_text(LOCK)
    (tmp_path / "_config.yml").touch()
    return Project(tmp_path)


def rules(project) -> list[str]:
    return [finding.rule for finding in lint_chapter(project, "toy")]


def replace(project, old: str, new: str, name: str = "chapter.py") -> int:
    """Replace text in a file of the chapter; return the line at which it stands."""
    path = project.notebooks / "toy" / name
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return text[: text.index(old)].count("\n") + 1


def test_a_clean_chapter_has_no_findings(project):
    assert lint_chapter(project, "toy") == []


def test_findings_in_a_chapter_have_the_line_of_the_file(project):
    replace(project, 'recorder.number("toy.third", 1 / 3)', "import torch\nx = 1")
    line = replace(project, "x = 1", "x = torch.rand(3)")
    (finding,) = lint_chapter(project, "toy")
    assert str(finding).startswith(f"notebooks/toy/chapter.py:{line}: unseeded: torch.rand")


def test_the_library_is_checked_too(project):
    (project.root / "lib" / "companion" / "bad.py").write_text("import random\nrandom.random()\n")
    assert [(finding.path, finding.line) for finding in lint(project)] == [("lib/companion/bad.py", 2)]


@pytest.mark.parametrize(("lines", "found"), [(15, []), (16, [False]), (25, [False]), (26, [True])])
def test_long_cells(project, lines, found):
    code = "\n".join(f"x{number} = 1  # one" for number in range(lines))
    replace(project, 'recorder.number("toy.third", 1 / 3)', f"# %%\n# a comment\n\n{code}")
    findings = lint_chapter(project, "toy")
    assert [(finding.rule, finding.error) for finding in findings] == [("long-cell", error) for error in found]


def test_long_functions(project):
    body = "\n".join("    y = 1" for _ in range(4))
    replace(project, 'recorder.number("toy.third", 1 / 3)', f"def f(x):\n{body}")
    assert rules(project) == []
    replace(project, "def f(x):", "def f(x):\n    z = 1")
    assert rules(project) == ["long-function"]


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ('recorder.figure("f", figure, {}, alt="A.", caption="B.")', []),
        ('recorder.figure("f", figure, {}, caption="B.")', ["no-alt"]),
        ('recorder.figure("f", figure, {}, alt="", caption=text)', ["no-alt"]),
        ('recorder.table("t", frame)', ["no-caption"]),
        ("plt.figure()", []),
        ("plt.show()", ["unrecorded"]),
        ('begin("toy", profile, seed)', ["begin"]),
    ],
)
def test_what_is_shown_is_recorded_and_described(project, call, found):
    replace(project, 'recorder.number("toy.third", 1 / 3)', call)
    assert rules(project) == found


@pytest.mark.parametrize(
    ("prose", "found"),
    [
        ("It keeps 5 %\n% accuracy.", [2]),
        ("- It keeps 5\n  % accuracy.", [2]),
        ("```{exercise} Five\n:label: five\nIt keeps 5\n% accuracy.\n```", [4]),
        (":::{note}\nIt keeps 5\n% accuracy.\n:::", [3]),
        ("It keeps 5\n+++ accuracy.", [2]),
        ("It keeps 5 % accuracy, `x\n` % as before.", []),
        ("```latex\n% a comment\n```", []),
        ("```{code-block} latex\n% a comment\n```", []),
        ("$$\nx\n% a comment\n$$ (five)", []),
        ("Five.\n\n# %%\n# % of the images", []),
    ],
)
def test_prose_that_myst_would_drop_is_named(project, prose, found):
    cell, _, code = prose.partition("\n\n# %%")
    written = "\n".join(f"# {line}" for line in cell.splitlines()) + (f"\n\n# %%{code}" if code else "")
    first = replace(project, "# # A toy chapter", written)
    findings = lint_chapter(project, "toy")
    assert [(finding.rule, finding.line - first + 1, finding.error) for finding in findings] == [
        ("lost-prose", line, True) for line in found
    ]
    assert all("break the line elsewhere" in finding.message for finding in findings)


def test_a_chapter_must_finish_in_its_last_cell(project):
    replace(project, "recorder.finish()", "x = 1")
    assert rules(project) == ["finish"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (' tags=["parameters"]', "", '0 cells carry the tag "parameters"'),
        ("size = 3", "size = 1 + 2", "literal value"),
        ("size = 3", "size = 4", "size is 3, but the parameters cell"),
        ('profile = "laptop"', 'profile = "smoke"', "profile is 'laptop'"),
        ("seed = 0", "sed = 0", "does not set seed"),
        ("size = 3", "length = 3", "unknown parameter 'size'"),
        ("1 / 3)", "1 / 3)\n%time x = 1", "magics"),
        ("1 / 3)", "1 / 3)\n# %time x = 1", "magics"),
    ],
)
def test_parameters_and_cells_must_be_plain(project, old, new, said):
    replace(project, old, new)
    assert said in " ".join(finding.message for finding in lint_chapter(project, "toy"))


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("claim", lambda card: card["claims"][0]["tests"][0].update(expression="toy.double >")),
        ("claim", lambda card: card["claims"][0]["tests"][0].update(expression="open('x')")),
        ("data", lambda card: card["profiles"]["smoke"].update(data=["toy_wrld"])),
        ("card", lambda card: card.update(part="X")),
    ],
)
def test_the_card_is_checked(project, rule, change):
    content = toy_card("toy")
    change(content)
    (project.notebooks / "toy" / "paper.yml").write_text(yaml.safe_dump(content))
    assert {(finding.path, finding.rule) for finding in lint_chapter(project, "toy")} == {
        ("notebooks/toy/paper.yml", rule)
    }


def test_an_artifact_names_a_figure_that_the_chapter_records(project):
    artifact = {"id": "curve", "kind": "figure", "title": "A curve", "where": "page 3", "by": "curve"}
    content = {**toy_card("toy"), "artifacts": [artifact]}
    (project.notebooks / "toy" / "paper.yml").write_text(yaml.safe_dump(content))
    assert rules(project) == ["artifact"]
    replace(project, "1 / 3)", '1 / 3)\nrecorder.figure("curve", x, {}, alt="A.", caption="B.")')
    assert rules(project) == []
