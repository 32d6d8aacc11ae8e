"""A page in a real browser, watched."""

import re
import threading
import time
from contextlib import contextmanager

import uvicorn

from deepviz.web import listening

WATCH = """
addEventListener("securitypolicyviolation", (event) => {
  (window.violations ??= []).push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""


class Visit:
    """A page, and what it did: every request, every refusal, every complaint."""

    def __init__(self, browser, link, **options):
        self.context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **options)
        self.context.add_init_script(WATCH)
        self.page = self.context.new_page()
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("response", lambda answer: answer.status >= 400 and self.complaints.append(answer.url))
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(link)

    def until(self, expression, seconds=20):
        """Wait until it is true in the page; not by a string to be evaluated there, which its policy forbids."""
        end = time.monotonic() + seconds
        while not self._is(expression):
            assert time.monotonic() < end, f"{expression} stays false; complaints: {self.complaints}"
            self.page.wait_for_timeout(20)

    def _is(self, expression):
        try:
            return self.page.evaluate(expression)
        except Exception as error:
            if "context was destroyed" in str(error):  # by another page, which is on its way
                return False
            raise

    def drawn(self, tiles, seconds=20):
        """Wait until so many tiles are there, none of them waiting."""
        self.until(f"document.querySelectorAll('.dv-tile:not(.dv-original)').length === {tiles}", seconds)
        self.until("!document.querySelector('.dv-frame[aria-busy=true]')", seconds)
        self.until("document.getElementById('job').hidden", seconds)

    def checked(self, maps, seconds=60):
        """Wait until the strips of so many maps are there."""
        self.until(f"document.querySelectorAll('.strip:not(:empty)').length === {maps}", seconds)
        self.until("document.getElementById('job').hidden", seconds)
        self.page.wait_for_timeout(400)  # the verdicts follow

    def captions(self):
        """What is written below the tiles, once it stays."""
        found = None
        while found != (found := self.page.locator(".dv-tile:not(.dv-original) figcaption").all_inner_texts()):
            self.page.wait_for_timeout(150)
        return found

    def close(self, allowed=()):
        """That it asked nobody but its server, and that nothing was refused or complained of."""
        origin = re.match(r"http://[^/]+", self.page.url)[0]
        assert not [url for url in self.requests if not url.startswith((f"{origin}/", "blob:", "data:"))]
        assert self.page.evaluate("window.violations ?? []") == []
        assert [one for one in self.complaints if not any(word in one for word in allowed)] == []
        self.context.close()


@contextmanager
def served(app, prefix=""):
    """The link to an app on a free port, also behind a path as a proxy that takes it off."""

    async def behind(scope, receive, send):
        if scope["type"] == "http" and prefix:
            if not scope["path"].startswith(f"{prefix}/"):  # nothing of the page may lie outside
                await send({"type": "http.response.start", "status": 418, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
            path = scope["path"][len(prefix) :]
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await app(scope, receive, send)

    bound = listening("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(behind, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}{prefix}/#token={app.state.token}"
    finally:
        server.should_exit = True
        thread.join(20)
        bound.close()
