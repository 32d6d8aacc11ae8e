"""A real browser, where there is one."""

import shutil
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def chromium():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no browser found: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page, with all that it asked for and complained of."""

    def __init__(self, page):
        self.page = page
        self.requests, self.complaints = [], []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, path: Path):
        self.page.goto(path.as_uri())
        self.page.wait_for_function("() => globalThis.comparison")
        self.page.evaluate("() => comparison.idle()")
        return self

    @property
    def fetched(self):
        return [url for url in self.requests if not url.startswith(("data:", "blob:"))]


@pytest.fixture
def visit(chromium):
    context = chromium.new_context(viewport={"width": 1200, "height": 900})
    yield Visit(context.new_page())
    context.close()
