"""Files that are sent: pictures, reports, data, and the parts of the page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib import resources

from PIL import Image

from deepviz.files import encoded
from deepviz.results.explanation import Explanation, sheet
from deepviz.viewer import static_files


def page_files(page: str = "index.html") -> dict[str, bytes]:
    """A page and its parts, by address; "" is the page itself. Read once: no request ever names a file."""
    own = resources.files("deepviz.web") / "static"
    parts = {f"static/{file.name}": file.read_bytes() for file in own.iterdir() if not file.name.endswith(".html")}
    viewer = {f"viewer/{name}": content for name, content in static_files().items()}
    return {"": (own / page).read_bytes(), **parts, **viewer}


def jpeg(picture: Image.Image, side: int) -> bytes:
    """A picture as JPEG, its longer side at most `side`."""
    small = picture.copy()
    small.thumbnail((side, side), reducing_gap=3.0)
    return encoded(small, "JPEG")


def data_url(content: bytes, kind: str = "jpeg") -> str:
    """A picture as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def sheets(explanations: Sequence[Explanation]) -> bytes:
    """The sheets of all images in one PNG, below each other."""
    by_photograph: dict[int, list[Explanation]] = {}
    for explanation in explanations:
        by_photograph.setdefault(id(explanation.image), []).append(explanation)
    pages = [sheet(group) for group in by_photograph.values()]
    whole = Image.new("RGB", (max(page.width for page in pages), sum(page.height for page in pages)), "white")
    top = 0
    for page in pages:
        whole.paste(page, (0, top))
        top += page.height
    return encoded(whole)
