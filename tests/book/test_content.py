"""What the pages say is what the runs and cards say."""

import csv
import html as html_module
import json
import re
import xml.etree.ElementTree as ElementTree

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup

from companion.data.manifest import read_manifest
from companion.press.card import load_card
from companion.press.claims import verdicts
from companion.press.project import Project
from companion.press.runs import find_run, recorded_runs


@pytest.fixture(scope="session")
def soup(html):
    return BeautifulSoup((html / "chapters/belt.html").read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(scope="session")
def card():
    return load_card(Project.find(), "belt")


@pytest.fixture(scope="session")
def run(html, build, card):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPANION_BUILD", str(build))
        return find_run(Project.find(), card, "smoke", card.profile("smoke").seeds[0], portable=True)


def test_every_figure_of_the_run_is_shown_with_its_texts(soup, run):
    assert run.results["figures"]
    for name, figure in run.results["figures"].items():
        shown = soup.find("figure", id=f"fig-belt-{name}")
        assert shown, name
        assert shown.find("img")["alt"] == " ".join(figure["alt"].split())
        assert shown.find("figcaption").get_text(strip=True)


def test_every_table_of_the_run_can_be_downloaded_as_csv(html, soup, run):
    assert run.results["tables"]
    for name, table in run.results["tables"].items():
        link = soup.find("a", download=f"belt-{name}.csv")
        path = (html / "chapters" / link["href"]).resolve()
        with path.open(encoding="utf-8", newline="") as file:
            assert len(list(csv.reader(file))) == table["rows"] + 1
        assert soup.find(id=f"tab-belt-{name}").find("table")


def test_notebook_source_and_arrays_can_be_downloaded(html, soup, run):
    links = soup.find_all("a", download=True)
    downloads = {link["download"]: (html / "chapters" / link["href"]).resolve() for link in links}
    notebook = nbformat.read(downloads["belt.ipynb"], as_version=4)
    assert any(cell.get("outputs") for cell in notebook.cells)
    assert downloads["belt.py"].read_bytes() == (Project.find().notebooks / "belt" / "chapter.py").read_bytes()
    for name in run.results["figures"]:
        with np.load(downloads[f"belt-{name}.npz"]) as arrays:
            assert arrays.files


def test_every_claim_is_shown_with_its_verdict(soup, card, run):
    found = verdicts(card, [run, *recorded_runs(Project.find(), card, "smoke")])
    assert len(found) == len(card.claims) > 0
    for verdict in found:
        section = soup.find(id=f"claim-belt-{verdict.claim}")
        shown = section.select_one(".claim-verdicts li")
        assert shown.find("code").get_text() == "smoke"
        assert shown.select_one(".verdict").get_text().split(maxsplit=1)[1] == verdict.status


def test_every_artifact_of_the_paper_is_listed(soup, card):
    text = soup.find("article").get_text()
    for artifact in card.artifacts:
        assert artifact.where in text
    assert text.count("not regenerated") >= sum(artifact.by is None for artifact in card.artifacts)


def test_the_ledger_lists_all_fourteen_papers(html):
    ledger = BeautifulSoup((html / "claims.html").read_text(encoding="utf-8"), "html.parser").find(id="ledger")
    papers = {row.td.get_text(strip=True) for row in ledger.tbody.find_all("tr")}
    assert len(papers) == 14


RAW = re.compile(
    r"\|\s*:?-{2,}|\{(?:glue|cite|numref|eval)[^}]*\}`|^:{3,}|\$[^$\n]*\\[a-zA-Z]+[^$\n]*\$|<!-- ?press:", re.MULTILINE
)
"""Markup that a reader must never see: rules of tables, roles, fences, formulae, the press's markers."""


def raw_markup(page: str) -> list[str]:
    """Return what of RAW stands in the text of a page, code left out."""
    soup = BeautifulSoup(page, "html.parser")
    article = soup.find("article") or soup
    for code in article.select("pre, code, .highlight, script, style, textarea"):
        code.decompose()
    return RAW.findall(article.get_text("\n"))


def test_no_page_shows_raw_markup(html, pages):
    shown = {name: raw_markup((html / name).read_text(encoding="utf-8")) for name in pages}
    assert len(shown) > 30 and not {name: found for name, found in shown.items() if found}


@pytest.mark.parametrize(
    "text", ["| a | b |\n|---|---|", "{glue:text}`x:.1f`", ":::{note}", r"$\nabla J(x)$", "<!-- press:claims -->"]
)
def test_raw_markup_would_be_found(text):
    assert raw_markup(f"<article><p>{html_module.escape(text)}</p></article>")
    assert not raw_markup(f"<article><p>5 | 7, 3 -- 4</p><pre>{html_module.escape(text)}</pre></article>")


def test_status_json_has_every_run_of_the_status_page(html):
    status = json.loads((html / "status.json").read_text(encoding="utf-8"))
    page = BeautifulSoup((html / "status.html").read_text(encoding="utf-8"), "html.parser")
    rows = page.find(id="runs").tbody.find_all("tr")
    assert len(rows) == len(status["runs"]) > 0
    fresh = [run for run in status["runs"] if run["profile"] == "smoke" and run["state"] == "fresh"]
    assert {run["chapter"] for run in fresh} >= {"belt"}
    assert set(status["claims"]["belt"]["smoke"]) == {claim.id for claim in load_card(Project.find(), "belt").claims}


def test_badges_are_drawings_with_words(html):
    badges = sorted((html / "badges").glob("*.svg"))
    assert {"claims.svg", "runs.svg", "belt.svg"} <= {badge.name for badge in badges}
    for badge in badges:
        root = ElementTree.parse(badge).getroot()
        assert root.attrib["aria-label"] == root.find("{*}title").text


def test_people_are_never_printed(html):
    kinds = {path.stem: read_manifest(path).kind for path in Project.find().manifests.glob("*.yml")}
    shown = {path.name.rpartition("-")[0] for path in (html / "galleries").glob("*.png")}
    assert {"signs", "digits"} <= shown
    assert {kinds[name] for name in shown} == {"generated", "embedded"}
    assert kinds["orl_faces"] == "real"
