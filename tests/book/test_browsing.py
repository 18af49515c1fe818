"""The built pages in a real browser: what a reader sees and does."""

import json

import pytest

MAIN = ["index.html", "claims.html", "status.html", "data.html", "notation.html", "re-running.html"]
MAIN += ["chapters/belt.html", "api/index.html", "api/press-notebook.html"]


def test_no_page_complains_or_asks_another_host(reader, pages):
    reader.open("index.html").script("localStorage.clear()")
    complaints = {}
    for page in pages:
        found = reader.open(page).complaints()
        if found:
            complaints[page] = found
    assert not complaints
    asked = set()
    for entry in reader.driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"])
    strangers = [url for url in asked if not url.startswith((reader.address, "data:", "chrome:", "about:", "blob:"))]
    assert len(asked) > len(pages)
    assert not strangers


@pytest.mark.parametrize("selector", [".made details", ".claim details"])
def test_folds_open_on_click(reader, selector):
    reader.open("chapters/belt.html")
    folds = reader.find(selector)
    assert folds
    for fold in folds[:3]:
        summary, inside = fold.find_element("tag name", "summary"), fold.find_elements("css selector", "dl, table")
        reader.script("arguments[0].scrollIntoView({block: 'center'})", summary)
        assert inside and not any(element.is_displayed() for element in inside)
        summary.click()
        assert all(element.is_displayed() for element in inside)


def test_every_figure_folds_out_its_record(reader):
    reader.open("chapters/belt.html")
    folds = reader.script(
        "return [...document.querySelectorAll('.made details')]"
        ".map(d => [d.textContent, d.querySelectorAll('a').length])"
    )
    figures = len(reader.find("figure img"))
    assert figures and len(folds) >= figures
    for text, links in folds:
        assert "smoke, seed 0, portable" in text and "key" in text and "Python 3" in text
        assert links >= 1


def test_search_finds_a_word(reader):
    from selenium.webdriver.support.ui import WebDriverWait

    reader.open("search.html?q=exclusivity")
    WebDriverWait(reader.driver, 20).until(lambda _: reader.find("#search-results ul.search li a"))
    found = {link.get_attribute("href").partition("?")[0] for link in reader.find("#search-results ul.search li a")}
    assert reader.address + "chapters/belt.html" in found


@pytest.mark.parametrize("page", MAIN)
def test_phone_width_does_not_scroll_sideways(reader, page):
    reader.open(page, width=390)
    reader.script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert reader.script("return document.documentElement.scrollWidth") <= 390
    wide = reader.script(
        "return [...document.querySelectorAll('.bd-article *')].filter(e => e.getBoundingClientRect().right > 391"
        " && !e.closest('.table-box, .math-box, pre, .highlight, .pst-scrollable-table-container'))"
        ".map(e => e.outerHTML.slice(0, 120))"
    )
    assert not wide
    captions = reader.script(
        "return [...document.querySelectorAll('.table-box caption')].map(c => ({text: c.textContent.slice(0, 60),"
        " over: c.getBoundingClientRect().width - c.closest('.table-box').clientWidth})).filter(c => c.over > 1)"
    )
    assert not captions, "a table's caption is cut at the edge of its box"


def test_every_verdict_of_the_ledger_is_seen_on_a_phone(reader):
    reader.open("claims.html", width=390)
    seen = reader.script(
        "return [...document.querySelectorAll('#ledger tbody .verdict')].map(v => v.getBoundingClientRect())"
        ".map(box => box.left >= 0 && box.right <= 390 && box.height > 0)"
    )
    assert len(seen) > 80 and all(seen)
    reader.find(".ledger-filter input")[0].send_keys("no row has these words")
    shown = "return [...document.querySelectorAll('#ledger tbody tr')].filter(row => row.offsetHeight > 0).length"
    assert reader.script(shown) == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", MAIN)
def test_text_is_legible(reader, request, page, theme):
    reader.open(page, theme=theme)
    assert reader.script("return document.documentElement.dataset.theme") == theme
    reader.script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    reader.script("document.getAnimations().forEach(a => a.finish())")  # folds fade in
    looked, low = reader.script((request.path.parent / "contrast.js").read_text())
    assert looked > 30
    assert not low


def test_pale_text_would_be_found(reader, request):
    reader.open("index.html", theme="light")
    reader.script(
        "const p = document.createElement('p'); p.textContent = 'pale'; p.style.color = '#999';"
        "document.querySelector('.bd-article').append(p);"
    )
    _, low = reader.script((request.path.parent / "contrast.js").read_text())
    assert [found[3].endswith("pale") for found in low] == [True]


def test_figures_stand_on_white_in_the_dark(reader):
    reader.open("chapters/belt.html", theme="dark")
    backgrounds = reader.script(
        "return [...document.querySelectorAll('figure img')].map(i => getComputedStyle(i).backgroundColor)"
    )
    assert backgrounds and set(backgrounds) == {"rgb(255, 255, 255)"}


def _column(reader, number: int) -> list[str]:
    return reader.script(
        "return [...document.querySelectorAll('#ledger tbody tr:not([hidden])')]"
        ".map(r => r.cells[arguments[0]].dataset.sort || r.cells[arguments[0]].textContent.trim())",
        number,
    )


def test_the_ledger_sorts_by_every_column(reader):
    reader.open("claims.html")
    headers = reader.find("#ledger thead th")
    for number, header in enumerate(headers):
        before = _column(reader, number)
        header.find_element("tag name", "button").click()
        up = _column(reader, number)
        assert header.get_attribute("aria-sort") == "ascending"
        numbers = all(value.lstrip("-").isdigit() for value in before)
        assert up == sorted(before, key=int) if numbers else sorted(up) == sorted(before)
        header.find_element("tag name", "button").click()
        assert _column(reader, number)[::-1] == up
        assert header.get_attribute("aria-sort") == "descending"


def test_the_ledger_filters(reader):
    """By every verdict, and then by a word of a row of one that has rows; whatever chapters and verdicts there are."""
    from selenium.webdriver.support.ui import Select

    reader.open("claims.html")
    everything = len(_column(reader, 0))
    chooser = Select(reader.find(".ledger-filter select[name=status]")[0])
    counts = {}
    for option in [option.text for option in chooser.options[1:]]:
        chooser.select_by_visible_text(option)
        counts[option] = len(_column(reader, 0))
        said = f"{counts[option]} of {everything} rows" if counts[option] < everything else f"{everything} rows"
        assert reader.find(".ledger-count")[0].text == said
    assert min(counts.values()) < everything <= sum(counts.values())
    option = next(name for name, count in counts.items() if count)
    chooser.select_by_visible_text(option)
    word = max(_column(reader, 1)[0].split(), key=len)
    reader.find(".ledger-filter input")[0].send_keys(word)
    texts = reader.script(
        "return [...document.querySelectorAll('#ledger tbody tr:not([hidden])')].map(r => r.textContent)"
    )
    assert 1 <= len(texts) <= counts[option]
    assert all(word.lower() in text.lower() for text in texts)
    reader.find(".ledger-filter input")[0].send_keys("no row has these words")
    assert not _column(reader, 0)


def test_the_hub_form_makes_a_link(reader):
    reader.open("re-running.html")
    reader.find(".hub-form input")[0].send_keys("https://hub.example.org/")
    link = reader.find(".hub-link a")[0].get_attribute("href")
    assert link.startswith("https://hub.example.org/hub/user-redirect/git-pull?repo=https%3A%2F%2Fgithub.com%2F")
    assert "notebooks%2Fbelt%2Fchapter.py" in link


def test_runs_show_their_age(reader):
    reader.open("status.html")
    ages = [element.text for element in reader.find("#runs time")]
    assert ages and all(age.endswith(("ago)", "(just now)")) for age in ages)
