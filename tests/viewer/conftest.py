"""A visit of a page in a real browser, where there is one."""

from pathlib import Path

import pytest


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
