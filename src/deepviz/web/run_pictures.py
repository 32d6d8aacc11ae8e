"""Pictures of a run's rows: maps on their images, made as they are asked for."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from deepviz.errors import DeepVizError
from deepviz.geometry import Geometry
from deepviz.models.images import shown
from deepviz.results.explanation import Explanation
from deepviz.results.run import UNSEEN, Run
from deepviz.web.files import jpeg
from deepviz.web.image_store import decoded, size_of
from deepviz.web.limits import Limits
from deepviz.web.model_service import LRUCache


@dataclass(frozen=True, eq=False)
class RunPictures:
    """Draws rows, and keeps the small pictures within a bound.

    Args:
        limits: of images, and of what is kept.
    """

    limits: Limits
    _kept: LRUCache[bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_kept", LRUCache(self.limits.thumbnails_bytes, len))

    def known(self, key: Hashable) -> bytes | None:
        """A small picture that was drawn before."""
        return self._kept.get(key)

    @property
    def bytes_kept(self) -> int:
        """Of all small pictures."""
        return self._kept.total

    def thumbnail(self, key: Hashable, run: Run, row: dict[str, Any], side: int) -> bytes:
        """A row's map on its image as JPEG, its longer side at most `side`.

        The map alone if the image is not there, the image alone if there is no map, nothing if there is neither.

        Raises:
            StoredError: if the map is damaged.
        """
        picture = self._drawn(run, row, side)
        content = b"" if picture is None else jpeg(picture, side)
        self._kept.put(key, content)
        return content

    def _drawn(self, run: Run, row: dict[str, Any], side: int) -> Image.Image | None:
        if row["map"] is None:
            return self.image(run, row, side)
        image = self.image(run, row, side)
        explanation = run.explanation_of(row, blank(row, side) if image is None else image)
        one = explanation.slice_at(explanation.best_slice) if explanation.layout == "slices" else explanation
        return one.heatmap() if image is None and one.layout == "image" else one.overlay()

    def image(self, run: Run, row: dict[str, Any], side: int | None = None) -> Image.Image | None:
        """The image of a row, if its file is there and has the size that was explained.

        Args:
            run: of which the row is.
            row: with all columns.
            side: pixels of the longer side that are enough; None for all.
        """
        content = run.file_of(row["image"])
        if content is None:
            return None
        name = shown(row["image"])
        try:
            size = size_of(content, name, self.limits)
            if row["geometry"] is not None and size != tuple(json.loads(row["geometry"])["size"]):
                return None
            picture = decoded(content, name, self.limits, side).picture
        except DeepVizError:
            return None
        if side is not None:
            picture.thumbnail((side, side), reducing_gap=3.0)
        return picture

    def explanation(self, run: Run, row: dict[str, Any]) -> Explanation:
        """The map of a row, without its image but for its size.

        Raises:
            StoredError: if it is damaged.
        """
        return run.explanation_of(row, blank(row))


def blank(row: dict[str, Any], side: int | None = None) -> Image.Image:
    """What stands for an image that is not there; with `side`, of a flat one, no larger than that."""
    held = json.loads(row["geometry"])
    size = Geometry(tuple(held["size"]), tuple(held["box"])).size
    if side is not None and len(held.get("space", ())) != 3:  # slices lie side by side in whole pixels
        share = min(1.0, side / max(size))
        size = max(1, round(share * size[0])), max(1, round(share * size[1]))
    return Image.new("RGB", size, UNSEEN)
