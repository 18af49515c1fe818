"""The small parts of pages: docstrings, formulas, words for numbers, badges, tables of contents."""

import ast
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from toy_book import ToyBook

from companion.errors import CompanionError
from companion.press import apidoc, badges, markup, pages
from companion.press.card import load_card
from companion.press.claims import Evidence, verdicts
from companion.press.edition import read_edition, read_papers
from companion.press.ledger import counts, ledger_html, seeds_said
from companion.press.mathml import to_mathml
from companion.press.project import Project
from companion.press.sphinx_extension import launch_addresses

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_ROOT", str(tmp_path))
    monkeypatch.delenv("COMPANION_BUILD", raising=False)
    return ToyBook(tmp_path)


@pytest.mark.parametrize(
    "plain",
    [
        "a <tag> & more",
        "2 * 3 * 4",
        "**kwargs and _private_ names",
        "`x` costs $5 or $6",
        "[0, 1) and {role}`x`",
        "# not a title",
    ],
)
def test_docstrings_stay_plain_text(plain):
    html = MarkdownIt("commonmark").render(apidoc.to_markdown(plain, ()))
    assert "".join(ElementTree.fromstring(f"<div>{html}</div>").itertext()).strip() == plain.replace("`", "")
    assert "{role}`" not in apidoc.to_markdown(plain, ()).replace("\\{role\\}`", "")


def test_arguments_of_a_docstring_become_a_list():
    text = "Do it.\n\nimages: (B, C, H, W) in [0, 1]; labels, seed: numbers\nRaises CompanionError for others."
    found = apidoc.to_markdown(text, ("images", "labels", "seed"))
    assert found.splitlines()[2:4] == ["- **images**: (B, C, H, W) in \\[0, 1\\]", "- **labels, seed**: numbers"]
    assert found.endswith("\n\nRaises CompanionError for others.")


def test_examples_of_a_docstring_become_code():
    assert apidoc.to_markdown("Do.\n\n>>> f(1)\n2", ()) == "Do.\n\n```pycon\n>>> f(1)\n2\n```"


def test_used_names_follow_every_kind_of_import():
    code = """
import companion.seeding
import companion.metrics as m
from companion.defenses import strip
from companion.training import train as fit
fit(m.accuracy)
strip.entropies()
companion.seeding.generator(1)
"""
    assert {"companion.training.train", "companion.metrics.accuracy"} < set(apidoc.used_names(code))
    assert {"companion.defenses.strip.entropies", "companion.seeding.generator"} < set(apidoc.used_names(code))
    assert apidoc.used_names("import os\nos.path.join('a')") == []


def test_every_public_function_of_the_library_is_documented_where_it_stands():
    library = apidoc.read_library(ROOT / "lib" / "companion")
    names = {module.name: module for module in library.modules}
    module = names["companion.seeding"]
    source = (ROOT / module.path).read_text()
    for member in module.members:
        node = next(node for node in ast.parse(source).body if getattr(node, "name", "") == member.name)
        assert (member.first_line, member.last_line) == (node.lineno, node.end_lineno)
    page = apidoc.module_page(module, {"companion.seeding.derive_seed": [("chapters/belt.ipynb", "BELT")]}, "SOURCE")
    assert "[BELT](../chapters/belt.ipynb)" in page and f"SOURCE/{module.path}#L" in page


@pytest.mark.parametrize(
    "tex",
    [
        r"m \in [0,1]^{H \times W}",
        r"\dots \lVert m \rVert_1 \bm{x} \argmax_k",
        r"\begin{cases} 1 & x > 0 \\ 0 & \text{else} \end{cases}",
        r"\operatorname{CE}(f_\theta(x), y) + \tfrac{1}{2} \mathbb{E}_{x \sim \mathcal{D}}",
    ],
)
def test_formulas_become_mathml(tex):
    for block in (True, False):
        root = ElementTree.fromstring(to_mathml(tex, block))
        assert root.tag.endswith("math") and "".join(root.itertext()).strip()


@pytest.mark.parametrize("name", ["align", "align*", "gather", "split", "aligned"])
def test_lines_of_a_displayed_formula_become_a_table(name):
    root = ElementTree.fromstring(to_mathml(rf"\begin{{{name}}} a &= b \\ c &= d \end{{{name}}}", True))
    assert len(root.findall(".//{*}mtr")) == 2


@pytest.mark.parametrize(("command", "tag"), [("underbrace", "munder"), ("overbrace", "mover")])
def test_the_word_of_a_brace_stands_at_the_brace(command, tag):
    script = {"underbrace": "_", "overbrace": "^"}[command]
    root = ElementTree.fromstring(to_mathml(rf"\{command}{{x + y}}{script}{{\text{{word}}}}", True))
    (outer,) = (element for element in root if element.tag.endswith(tag))
    assert outer[0].tag.endswith(tag) and outer[1].text == "word"


def test_the_difference_of_sets_is_a_sign_that_fonts_have():
    assert "<mo>∖</mo>" in to_mathml(r"N \setminus i", False)


def test_a_formula_that_cannot_be_printed_is_named():
    with pytest.raises(ValueError, match="nosuchcommand"):
        to_mathml(r"\nosuchcommand{x}", False)


@pytest.mark.parametrize(
    ("short", "full"),
    [
        (r"r - \frac12 + m", r"r - \frac{1}{2} + m"),
        (r"\frac1m \sum_i", r"\frac{1}{m} \sum_i"),
        (r"\frac1\alpha", r"\frac{1}{\alpha}"),
    ],
)
def test_a_fraction_without_braces_takes_one_character_above_and_one_below(short, full):
    assert to_mathml(short, False) == to_mathml(full, False)


def test_a_formula_in_a_line_may_ask_for_the_style_that_it_has():
    assert to_mathml(r"\min \textstyle\sum_i x_i", False) == to_mathml(r"\min \sum_i x_i", False)


def test_an_accent_in_a_word_is_printed():
    assert "<mtext>Poincaré</mtext>" in to_mathml(r"d_{\text{Poincar\'e}}", False)


def test_bars_of_a_norm_do_not_stretch_but_those_of_left_and_right_do():
    assert 'stretchy="false" form="postfix">‖' in to_mathml(r"\lVert x \rVert_2", False)
    assert "<mo>‖</mo>" in to_mathml(r"\left\| \frac{a}{b} \right\|", False)


@pytest.mark.parametrize("tex", [r"\bar{x}_i", r"\hat y^2", r"\overline{f(x_{ab})}_{x \in D}", r"\tilde\theta_{t}"])
def test_an_index_of_an_accented_letter_stands_beside_it(tex):
    root = ElementTree.fromstring(to_mathml(tex, True))
    assert not root.findall(".//{*}munderover") and root[0].tag.endswith(("msub", "msup"))


def test_launch_buttons_lead_to_files_of_the_repository():
    made = "https://colab.example/github/o/r/blob/main/chapters/belt.ipynb"
    assert launch_addresses(made, "belt", "Colab").endswith("/blob/main/results/smoke/belt/chapter.ipynb")
    assert launch_addresses(made, "belt", "Binder").endswith("/blob/main/notebooks/belt/chapter.py")


def test_inline_markdown_is_safe():
    assert markup.inline("`a<b` <script> *b* $x$") == (
        f'<code>a&lt;b</code> &lt;script&gt; <em>b</em> <span class="math inline">{to_mathml("x", False)}</span>'
    )


@pytest.mark.parametrize(
    "seconds, said", [(0.04, "0 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (5400, "1 h 30 min")]
)
def test_durations_are_said_in_words(seconds, said):
    assert markup.duration(seconds) == said


def test_a_raw_block_cannot_be_left_by_its_content():
    block = markup.raw("<pre>```\n\n# title</pre>")
    tokens = MarkdownIt("commonmark").parse(block)
    assert [token.type for token in tokens] == ["fence"]


def test_badges_are_well_formed_and_coloured_by_the_worst_verdict():
    for held, failed, colour in [(2, 1, badges.COLOURS["failed"]), (2, 0, badges.COLOURS["held"])]:
        drawing = badges.verdict_badge("a<b & c", {"held": held, "partly": 0, "failed": failed, "not tested": 0})
        root = ElementTree.fromstring(drawing)
        assert root.attrib["aria-label"].startswith("a<b & c: 2 held")
        assert colour in drawing
    assert "nothing tested" in badges.verdict_badge("x", {})


def test_verdicts_are_counted_and_said(toy):
    card = load_card(Project(toy.root), "belt")
    found = verdicts(card, [Evidence(seed, "fresh", {"toy.double": {"value": 6}}) for seed in range(3)])
    assert counts(tuple(found)) == {"held": 1, "partly": 1, "failed": 1, "not tested": 1}
    assert seeds_said(found[0]) == "3 of 3 seeds (44–100 %)"


def test_the_ledger_lists_all_papers_and_says_which_are_not_written(toy):
    html = ledger_html(read_edition(Project(toy.root), "laptop"))
    assert html.count("chapter not written yet") == 13
    assert html.count('data-status="not tested;"') == 4
    assert '<option value="unwritten">' in html


def test_the_ledger_offers_no_unwritten_chapters_when_all_are_written(toy):
    edition = read_edition(Project(toy.root), "laptop")
    written = [paper for paper in edition.papers if paper.slug in edition.chapters]
    html = ledger_html(replace(edition, papers=written))
    assert html.count('data-status="not tested;"') == 4
    assert "unwritten" not in html


def test_contents_list_only_chapters_that_exist(toy):
    edition = read_edition(Project(toy.root), "laptop")
    library = apidoc.read_library(toy.root / "lib" / "companion")
    toc = yaml.safe_load(pages.table_of_contents(edition, library))
    captions = [part["caption"] for part in toc["parts"]]
    assert "I Backdoor attacks" in captions and not any(caption.startswith(("II", "V")) for caption in captions)
    (part,) = [part for part in toc["parts"] if part["caption"].startswith("I ")]
    assert [chapter["file"] for chapter in part["chapters"]] == ["chapters/belt"]


def test_an_unknown_marker_of_a_prose_page_is_named(toy):
    (toy.root / "book/data.md").unlink()  # its pictures take seconds
    (toy.root / "book/notation.md").write_text("# Notation\n\n<!-- press:nothing -->\n")
    with pytest.raises(CompanionError, match=r"book/notation\.md: unknown marker <!-- press:nothing -->"):
        pages.compose(read_edition(Project(toy.root), "laptop"))


def test_every_paper_has_an_entry_in_the_bibliography():
    parts, papers = read_papers(Project(ROOT))
    references = (ROOT / "book/references.bib").read_text()
    assert len(papers) == 14 and len(parts) == 5
    for paper in papers:
        assert f"{{{paper.key}," in references


def test_an_unreadable_card_becomes_a_chapter_with_an_error(toy):
    (toy.root / "notebooks/belt/paper.yml").write_text("slug: [\n")
    edition = read_edition(Project(toy.root), "laptop")
    assert "notebooks/belt/paper.yml" in edition.chapters["belt"].error
    assert "its card cannot be read" in ledger_html(edition)
