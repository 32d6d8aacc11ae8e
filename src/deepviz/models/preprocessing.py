"""`preprocess=` as it is given: a name, a file, a transform or a processor; read, and tried on two images."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deepviz.errors import DeepVizError, ModelError
from deepviz.models.band_preprocess import BandPreprocess
from deepviz.models.framing import Unreadable
from deepviz.models.images import example_photo, open_photo
from deepviz.models.preprocess import Preprocess
from deepviz.models.processors import is_processor, processed, read_configuration
from deepviz.models.stored import FilePreprocess
from deepviz.models.video_preprocess import VideoPreprocess
from deepviz.models.volume_preprocess import VolumePreprocess
from deepviz.names import nearest

_HALF = (0.5, 0.5, 0.5)
NAMED: dict[str, Preprocess | FilePreprocess] = {
    "imagenet": Preprocess(224),
    "inception": Preprocess(299, mean=_HALF, std=_HALF, interpolation="bicubic"),
    "clip": Preprocess(
        224,
        crop=1.0,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        interpolation="bicubic",
    ),
    "0..255": Preprocess(224, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255)),
    "volumes": VolumePreprocess(),
    "bands": BandPreprocess(),
    "videos": VideoPreprocess(),
}
"""Preprocessing by name."""
MOST, MEAN = 2.0, 0.2
"""Levels of 255 by which what was read may differ from the original, at most and on average."""
_PHOTOS = ("chelsea", "coffee")

_tried_before: WeakKeyDictionary[Any, tuple[Preprocess | None, Preprocess | None, tuple[str, ...]]] = (
    WeakKeyDictionary()
)
"""What was read of transforms, what is used (None: they themselves) and what is to be warned of, so that a loop over
images does not try them each time."""

Given = Preprocess | FilePreprocess | Callable[[Image.Image], Any] | str | Path


def preprocessing(
    given: Given,
) -> tuple[Preprocess | FilePreprocess | Callable[[Image.Image], Any], tuple[str, ...]]:
    """What is given as a `Preprocess`, or as a callable if that cannot be.

    Args:
        given: a `Preprocess`, `VolumePreprocess`, `BandPreprocess` or `VideoPreprocess`; "imagenet", "inception",
            "clip", "0..255", "volumes", "bands" or "videos"; a .json file with the fields of one of these, or one that
            transformers wrote; a transform of torchvision or timm; an image processor of transformers; or any callable
            from a PIL image to a tensor.

    Returns:
        It, and what is to be warned of, one sentence each: that what was read makes something else of two bundled
        images than the original does, or that the original makes something else of one image each time.

    Raises:
        ModelError: for a name or a file that is none.
        ImageError: if a processor makes no image, such as patches.
    """
    if isinstance(given, (Preprocess, FilePreprocess)):
        return given, ()
    if isinstance(given, (str, Path)):
        return named(given), ()
    original = processed(given) if is_processor(given) else given
    if not callable(original):
        raise ModelError(
            f"preprocess must be a deepviz.Preprocess, a name ({', '.join(NAMED)}), a .json file or a callable from a "
            f"PIL image to a tensor, got {type(given).__name__}"
        )
    read = Preprocess.read(given)
    known = _known(given)
    if known is None or known[0] != read:  # or it has been changed since
        with _same_random_states():
            known = read, *_tried(read, original)
        with suppress(TypeError):  # of what has no hash or no weak reference nothing is remembered
            _tried_before[given] = known
    _, used, remarks = known
    return used or original, remarks


def _known(given: Any) -> tuple[Preprocess | None, Preprocess | None, tuple[str, ...]] | None:
    try:
        return _tried_before.get(given)
    except TypeError:
        return None


def named(name: str | Path) -> Preprocess | FilePreprocess:
    """Preprocessing by name, or from a .json file: the fields of a `Preprocess`, or a preprocessor_config.json; with
    "reads", which is "volumes", "bands" or "videos", the fields of the preprocessing of these.

    Raises:
        ModelError: for another name, or a file that says none.

    Example:
        >>> named("inception").size, named("inception").interpolation
        (299, 'bicubic')
    """
    if str(name) in NAMED:
        return NAMED[str(name)]
    path = Path(name)
    if path.suffix.lower() != ".json":
        raise ModelError(f"no preprocessing is called {str(name)!r}{nearest(str(name), NAMED)}; or give a .json file")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {str(error).splitlines()[0]}") from error
    if not isinstance(said, dict):
        raise ModelError(f"{path} must hold an object with {', '.join(_known_fields(Preprocess))}")
    try:
        if "image_mean" in said or "image_processor_type" in said:
            return Preprocess(**read_configuration(said))
    except Unreadable:
        raise ModelError(f"{path} asks for more than resizing, cropping and normalising; give a callable") from None
    reads = said.pop("reads", None)
    if reads is not None:
        kinds = {one.reads: type(one) for one in NAMED.values() if isinstance(one, FilePreprocess)}
        if reads not in kinds:
            raise ModelError(f"{path}: 'reads' must be one of {', '.join(kinds)}, got {reads!r}")
        return _with_fields(kinds[reads], said, path)
    return _with_fields(Preprocess, said, path)


_P = TypeVar("_P", bound=Preprocess | FilePreprocess)


def _with_fields(cls: type[_P], said: dict[str, Any], path: Path) -> _P:
    known = _known_fields(cls)
    wrong = [key for key in said if key not in known]
    if wrong or (cls is Preprocess and "size" not in said):
        what = f"{wrong[0]!r} is unknown{nearest(wrong[0], known)}" if wrong else "'size' is missing"
        raise ModelError(f"{path}: {what}; it may hold {', '.join(known)}")
    if "each" in said:
        if not isinstance(said["each"], dict):
            raise ModelError(f"{path}: 'each' must hold the fields of a Preprocess")
        said = said | {"each": _with_fields(Preprocess, said["each"], path)}
    return cls(**said)


def _known_fields(cls: type) -> list[str]:
    return [field.name for field in fields(cls)]


def _tried(
    read: Preprocess | None, original: Callable[[Image.Image], Any]
) -> tuple[Preprocess | None, tuple[str, ...]]:
    """What was read, if it makes of two images what the original does; None if the original is to be used."""
    if read is None:
        one, other = _made(original, _PHOTOS[0]), _made(original, _PHOTOS[0])
        return None, () if one is None or other is None else tuple(_random(one, other))
    most, mean = 0.0, 0.0
    for name in _PHOTOS:
        ours, theirs = read(_photo(name))[0], _made(original, name)
        if theirs is None:
            return read, ()
        if ours.shape != theirs.shape:
            return None, (
                f"preprocessing was read as {read}, which makes {tuple(ours.shape)} of an image of which the original "
                f"makes {tuple(theirs.shape)}: the original is used, and maps are drawn on the model's input",
            )
        levels = (ours - theirs).abs() * torch.tensor(read.std).abs()[:, None, None] * 255
        most, mean = max(most, float(levels.max())), max(mean, float(levels.mean()))
    if most <= MOST and mean <= MEAN:
        return read, ()
    return read, (
        f"preprocessing was read as {read}, which differs from the original on two images by up to {most:.3g} of 255 "
        f"levels, {mean:.2g} on average",
    )


def _random(one: Tensor, other: Tensor) -> Iterator[str]:
    if one.shape != other.shape:
        yield (
            f"preprocessing is random: it makes {tuple(one.shape)} and then {tuple(other.shape)} of one image; each "
            "map is of one draw"
        )
    elif not torch.equal(one, other):
        most, span = float((one - other).abs().max()), float(one.max() - one.min())
        yield (
            f"preprocessing is random: two calls on one image differ by up to {most:.3g} in values that span "
            f"{span:.3g}; each map is of one draw, so give the transform of validation"
        )


def _made(original: Callable[[Image.Image], Any], name: str) -> Tensor | None:
    try:
        made = original(_photo(name).copy())
    except DeepVizError:
        raise
    except Exception:  # a callable of the user's may raise anything
        return None
    if isinstance(made, Tensor) and made.ndim == 4 and len(made) == 1:
        made = made[0]
    return made.float() if isinstance(made, Tensor) and made.ndim == 3 else None


@cache
def _photo(name: str) -> Image.Image:
    return open_photo(example_photo(name)).picture


@contextmanager
def _same_random_states() -> Iterator[None]:
    """The random states of Python, NumPy and torch as they were, whatever a transform draws."""
    before = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
