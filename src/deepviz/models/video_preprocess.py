"""From a video file to a model's input: frames at equal distances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deepviz.errors import ImageError, MissingExtra, ModelError
from deepviz.models.images import ENDINGS, Reads, ending, shown
from deepviz.models.preprocess import Preprocess
from deepviz.models.stored import FilePreprocess, Ready, Source, other_kind, path_of, reading, slices_picture

KINETICS = Preprocess(
    112,
    crop=112 / 128,
    mean=(0.43216, 0.394666, 0.37645),
    std=(0.22803, 0.22145, 0.216989),
)
"""Of frames, as torchvision's networks for Kinetics take them."""


@dataclass(frozen=True)
class VideoPreprocess(FilePreprocess):
    """From a video to a model's input (C, frames, H, W): frames at equal distances, turned upright.

    Videos are .mp4, .mov, .mkv, .webm, .avi and .gif, decoded by PyAV (the extra `video`). Of n frames, the ones taken
    are numbers floor((i + 1/2) n / frames), the middles of equal parts; a video with fewer frames repeats some.

    Args:
        frames: how many the model takes.
        each: the preprocessing of each frame; by default that of torchvision's networks for Kinetics.

    Raises:
        ModelError: for values that make no sense.

    Example:
        >>> VideoPreprocess(8, Preprocess(64, crop=1.0)).example().shape
        torch.Size([3, 8, 64, 64])
    """

    frames: int = 16
    each: Preprocess = field(default=KINETICS)

    reads: ClassVar[Reads] = "videos"

    def __post_init__(self) -> None:
        if isinstance(self.frames, bool) or not isinstance(self.frames, int) or self.frames < 1:
            raise ModelError(f"frames must be a whole number from 1 up, got {self.frames!r}")
        if not isinstance(self.each, Preprocess):
            raise ModelError(f"each must be a deepviz.Preprocess, got {type(self.each).__name__}")

    def __call__(self, source: Source) -> Ready:
        """The model's input for a video, with a picture of its frames."""
        path = path_of(source, "a video")
        if path.is_dir() or ending(path) not in ENDINGS["videos"]:
            raise other_kind(path, "videos", "a video")
        pictures, total = sampled(path, self.frames)
        x = torch.stack([self.each(picture)[0] for picture in pictures], 1)
        _, geometry = self.each(pictures[0])
        seen = (f"of each frame the model saw {geometry.seen}",) if geometry.seen else ()
        some = f"{self.frames} of {total} frames" if total > self.frames else f"all of {total} frames"
        repeated = f", some repeated to {self.frames}" if total < self.frames else ""
        return Ready(x, self.shows(x)[0], shown(path.name), (some + repeated, *seen))

    def shows(self, x: Tensor) -> tuple[Image.Image, tuple[str, ...]]:
        """Frames of an input (C, frames, H, W), in their own colours."""
        pixels = self.each.unnormalise(x.detach().float().movedim(1, 0))
        return slices_picture(pixels.movedim(0, 1)), ()

    def example(self) -> Tensor:
        """An input of noise."""
        shape = (len(self.each.mean), self.frames, *self.each.input_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def pixel_value(self, name: str) -> Tensor:
        """The value (C, 1, 1, 1) of a colour by name in the model's input; see `Preprocess.pixel_value`."""
        return self.each.pixel_value(name)[:, None]


def sampled(path: Path, count: int) -> tuple[list[Image.Image], int]:
    """So many frames of a video at equal distances, upright, and how many it has.

    Raises:
        ImageError: if it cannot be decoded, or has no frames.
        MissingExtra: without PyAV.
    """
    try:
        import av
    except ImportError:
        raise MissingExtra(f"{shown(path)} is a video, which needs PyAV: pip install 'deepviz[video]'") from None
    with reading(path):
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ImageError(f"{shown(path)} holds no video")
            total = sum(packet.pts is not None for packet in container.demux(video=0))
        found, seen = _frames(av, path, _places(total, count))
        if seen != total:  # packets and frames need not be as many
            total = seen
            found, _ = _frames(av, path, _places(total, count))
    if not found:
        raise ImageError(f"{shown(path)} has no frames")
    return [found[place] for place in _places(total, count)], total


def _places(total: int, count: int) -> list[int]:
    return [(2 * number + 1) * total // (2 * count) for number in range(count)] if total else []


def _frames(av: Any, path: Path, places: Sequence[int]) -> tuple[dict[int, Image.Image], int]:
    """The frames at these places, and how many there are."""
    wanted, found, total = set(places), {}, 0
    for total, frame in enumerate(_decoded(av, path), 1):
        if total - 1 in wanted:
            upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            found[total - 1] = Image.fromarray(np.ascontiguousarray(upright))
    return found, total


def _decoded(av: Any, path: Path) -> Iterator[Any]:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        yield from container.decode(video=0)
