"""Where the pixels came from: the place of the model's input on the original image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """The rectangle of the original image that the model saw.

    Resizing and cropping keep the axes straight, so one rectangle tells all of it: the model's input, whatever
    its size in pixels, is the picture inside `box`.

    Args:
        size: (width, height) of the original image, upright, in pixels.
        box: (left, top, right, bottom) in pixels of the image, fractions allowed. It may reach outside the
            image where the preprocessing pads.

    Example:
        A 400 x 300 image, resized to 256 on its shorter side and cropped to the central 224 x 224:

        >>> geometry = Geometry.resize_crop(size=(400, 300), resized=(341, 256), crop=(224, 224))
        >>> [round(value, 2) for value in geometry.box]
        [68.04, 18.75, 330.79, 281.25]
    """

    size: tuple[int, int]
    box: tuple[float, float, float, float]

    @classmethod
    def whole(cls, size: tuple[int, int]) -> Geometry:
        """The model saw the whole picture of `size` = (width, height)."""
        return cls(size, (0.0, 0.0, float(size[0]), float(size[1])))

    @classmethod
    def resize_crop(cls, size: tuple[int, int], resized: tuple[int, int], crop: tuple[int, int]) -> Geometry:
        """The picture was resized to `resized`, then cropped (or padded) centrally to `crop`; all (width, height).

        The crop starts at round((resized - crop) / 2), as torchvision's and timm's does.
        """
        left, top = round((resized[0] - crop[0]) / 2), round((resized[1] - crop[1]) / 2)
        sx, sy = size[0] / resized[0], size[1] / resized[1]
        return cls(size, (left * sx, top * sy, (left + crop[0]) * sx, (top + crop[1]) * sy))

    def scaled(self, size: tuple[int, int]) -> Geometry:
        """The same part of the image, once that is resized to `size` = (width, height)."""
        across, down = size[0] / self.size[0], size[1] / self.size[1]
        left, top, right, bottom = self.box
        return Geometry(size, (left * across, top * down, right * across, bottom * down))

    def on_input(
        self, box: tuple[float, float, float, float], size: tuple[int, int]
    ) -> tuple[float, float, float, float]:
        """A box (left, top, right, bottom) of the image in the pixels of the model's input, whose `size` is
        (width, height), cut to what the model saw; where it saw nothing of it, the sides meet.

        Example:
            >>> Geometry((400, 300), (50, 0, 350, 300)).on_input((0, 30, 200, 90), (100, 100))
            (0.0, 10.0, 50.0, 30.0)
        """
        left, top, right, bottom = self.box
        width, height = size

        def cut(value: float, start: float, end: float, pixels: int) -> float:
            return min(max((value - start) / (end - start) * pixels, 0.0), float(pixels))

        return (
            cut(box[0], left, right, width),
            cut(box[1], top, bottom, height),
            cut(box[2], left, right, width),
            cut(box[3], top, bottom, height),
        )

    def on_image(
        self, box: tuple[float, float, float, float], size: tuple[int, int]
    ) -> tuple[float, float, float, float]:
        """A box of the model's input, whose `size` is (width, height), in pixels of the image.

        Example:
            >>> Geometry((400, 300), (50, 0, 350, 300)).on_image((0, 10, 50, 30), (100, 100))
            (50.0, 30.0, 200.0, 90.0)
        """
        left, top, right, bottom = self.box
        across, down = (right - left) / size[0], (bottom - top) / size[1]
        return left + box[0] * across, top + box[1] * down, left + box[2] * across, top + box[3] * down

    @property
    def seen(self) -> str:
        """How much of the image the model saw, in words; "" if all of it.

        Example:
            >>> Geometry((4000, 500), (1781, 31, 2219, 469)).seen
            'the middle 11 % of the width and the middle 88 % of the height'
        """
        left, top, right, bottom = self.box
        sides = (("width", left, right, self.size[0]), ("height", top, bottom, self.size[1]))
        return " and ".join(filter(None, (_share(*side) for side in sides)))

    @property
    def covers_all(self) -> bool:
        """Whether the model saw the whole image."""
        return self == Geometry.whole(self.size)


def _share(name: str, start: float, end: float, pixels: int) -> str:
    """How much of a side lies between two points, in words; "" for all of it."""
    start, end = max(0.0, start), min(float(pixels), end)
    share = (end - start) / pixels
    if share >= 0.995:
        return ""
    middle = "the middle " if abs(start + end - pixels) <= max(2.0, 0.02 * pixels) else ""
    return f"{middle}{100 * share:.2g} % of the {name}"
