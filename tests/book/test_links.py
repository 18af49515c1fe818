"""Every page, read as a file: nothing points nowhere, and nothing asks another host."""

from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from bs4 import BeautifulSoup

LOADING = [("script", "src"), ("img", "src"), ("link", "href"), ("source", "src"), ("iframe", "src"), ("video", "src")]


@pytest.fixture(scope="session")
def soups(html, pages) -> dict[str, BeautifulSoup]:
    return {name: BeautifulSoup((html / name).read_text(encoding="utf-8"), "html.parser") for name in pages}


def test_all_kinds_of_pages_are_there(pages):
    prose = ["index", "re-running", "data", "claims", "status", "notation", "glossary", "responsible-use"]
    prose += ["bibliography", "search"]
    assert {f"{name}.html" for name in [*prose, "api/index", "chapters/belt"]} <= set(pages)


def test_internal_links_images_and_anchors_exist(html, soups):
    anchors = {name: {tag["id"] for tag in soup.find_all(id=True)} for name, soup in soups.items()}
    broken, followed = [], 0
    for name, soup in soups.items():
        for tag, attribute in [("a", "href"), *LOADING]:
            for element in soup.find_all(tag, **{attribute: True}):
                address = element[attribute]
                if urlsplit(address).scheme or address.startswith("//"):
                    continue
                path, fragment = urldefrag(address)
                target = (html / name).parent / unquote(path.partition("?")[0]) if path else html / name
                target = target.resolve()
                followed += 1
                if not target.is_file():
                    broken.append(f"{name}: {address}")
                elif fragment and target.suffix == ".html":
                    page = target.relative_to(html.resolve()).as_posix()
                    if page in anchors and unquote(fragment) not in anchors[page]:
                        broken.append(f"{name}: {address} (no such anchor)")
    assert not broken
    assert followed > 1000


def test_nothing_is_loaded_from_another_host(soups):
    loaded = [
        f"{name}: {element[attribute]}"
        for name, soup in soups.items()
        for tag, attribute in LOADING
        for element in soup.find_all(tag, **{attribute: True})
        if urlsplit(element[attribute]).netloc and element.get("rel") != ["canonical"]
    ]
    assert not loaded


def test_every_image_has_alt_text(soups):
    images = [(name, image) for name, soup in soups.items() for image in soup.find_all("img")]
    assert images
    for name, image in images:
        decorative = "logo__image" in image.get("class", [])  # the book's name stands beside it
        assert image.has_attr("alt") and (decorative or image["alt"].strip()), (name, image.get("src"))


def test_no_markup_is_left_over(soups):
    pieces = ("{glue", "<!-- press:", "{cite", "{term", "{numref", "{figure", "{raw}")
    articles = {name: soup.find("article") for name, soup in soups.items() if not name.startswith("api/")}
    left = [f"{name}: {one}" for name, article in articles.items() if article for one in pieces if one in str(article)]
    assert not left


def test_launch_buttons_lead_to_files_of_the_repository(soups):
    for name, soup in soups.items():
        if not name.startswith("chapters/"):
            continue
        slug = name.removeprefix("chapters/").removesuffix(".html")
        links = {link.get_text(strip=True): link["href"] for link in soup.select(".dropdown-launch-buttons a")}
        assert set(links) == {"Binder", "Colab", "JupyterHub"}
        assert links["Binder"].endswith(f"/main?urlpath=lab/tree/notebooks/{slug}/chapter.py")
        assert links["Colab"].endswith(f"/blob/main/results/smoke/{slug}/chapter.ipynb")
        assert links["JupyterHub"] == "../re-running.html#in-the-cloud"


def test_library_and_chapters_link_to_each_other(soups):
    chapter = soups["chapters/belt.html"]
    to_library = {link["href"] for link in chapter.find_all("a", href=True) if link["href"].startswith("../api/")}
    assert any(address.endswith("#companion.press.notebook.begin") for address in to_library)
    back = soups["api/press-notebook.html"].find_all("a", href=True)
    assert any(link["href"] == "../chapters/belt.html" for link in back)
