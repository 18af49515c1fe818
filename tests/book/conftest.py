"""The book printed from the smoke runs of the real chapters, once a session, and a headless Chromium to open it."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic", "--hide-scrollbars"),
]


def pytest_collection_modifyitems(items):
    """Let one worker print the book and open its pages."""
    for item in items:
        if "tests/book" in item.path.as_posix():
            item.add_marker(pytest.mark.xdist_group("book"))


@pytest.fixture(scope="session")
def build() -> Path:
    """Return the folder under build/ that tests use, so that they leave the reader's own book alone."""
    return Path(os.environ.get("COMPANION_TEST_BUILD") or ROOT / "build" / "test")


@pytest.fixture(scope="session")
def html(build) -> Path:
    """Print the book from smoke runs and return the folder of pages."""
    environment = {**os.environ, "COMPANION_BUILD": str(build), "COMPANION_ROOT": str(ROOT)}
    command = [sys.executable, "-m", "companion.press.cli", "build", "--profile", "smoke", "--portable"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return build / "html"


@pytest.fixture(scope="session")
def pages(html) -> list[str]:
    """Return the names of all pages, such as chapters/belt.html."""
    found = sorted(path.relative_to(html).as_posix() for path in html.rglob("*.html"))
    return [name for name in found if not name.startswith(("_static/", "genindex", "py-modindex"))]


@pytest.fixture(scope="session")
def address(html) -> str:
    """Serve the pages on the loopback interface and return their address, with a slash at its end."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(html)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Return Debian's Chromium, headless, with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in programs.items() if path is None]
    if missing:
        pytest.fail(
            f"{' and '.join(missing)} not found: the book's pages are tested in Debian's Chromium. "
            "Install it with `apt-get install chromium chromium-driver`.",
            pytrace=False,
        )
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(programs["chromedriver"]))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


class Reader:
    """Somebody who opens pages of the book."""

    def __init__(self, driver, address: str):
        self.driver, self.address = driver, address

    def open(self, page: str, width: int = 1280, theme: str | None = None) -> "Reader":
        """Open a page in a window of this width, in this theme or as the reader before left it."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        if theme is not None:
            if not self.driver.current_url.startswith(self.address):
                self.driver.get(self.address + "search.html")
            self.script("localStorage.mode = localStorage.theme = arguments[0]", theme)
        self.driver.get(self.address + page)
        return self

    def script(self, code: str, *arguments):
        """Run a script in the page and return what it returns."""
        return self.driver.execute_script(code, *arguments)

    def find(self, selector: str) -> list:
        """Return the elements that a CSS selector finds."""
        return self.driver.find_elements("css selector", selector)

    def complaints(self) -> list[str]:
        """Return the warnings and errors of the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@pytest.fixture
def reader(browser, address) -> Reader:
    """Return somebody who can open pages of the book, with empty logs."""
    browser.get_log("browser")
    browser.get_log("performance")
    return Reader(browser, address)
