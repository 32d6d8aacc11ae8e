"""`DeepDream`: amplify a layer's activations on an image."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepviz.diagnostics import Diagnostics
from deepviz.errors import GenerationError, ModelError, TargetError
from deepviz.files import probe_folder
from deepviz.inputs import Inputs
from deepviz.models import Preprocess, load_model, open_photo
from deepviz.names import renamed_keywords
from deepviz.objectives import Energy, Logit, Objective
from deepviz.options import Ge, Gt, Layer, Le, Seed, validate_fields
from deepviz.probe.borrow import borrowed, original
from deepviz.probe.call import Call
from deepviz.probe.capture import layer_name
from deepviz.probe.chunks import spans
from deepviz.probe.gradient import differentiate, fresh_leaf
from deepviz.probe.seeds import generator_of
from deepviz.synthesis.ascent import ROWS, Step
from deepviz.synthesis.generated import Frame, Generated, as_bytes, model_record, warn_of_stillness
from deepviz.synthesis.record import described, plain
from deepviz.synthesis.scoring import (
    along_of,
    check_layers,
    class_of,
    evaluate_objectives,
    objective_alone,
    target_of,
    title_of,
)


@renamed_keywords(target_class="target")
@dataclass(frozen=True, eq=False)
class DeepDream:
    """DeepDream: amplify a layer's activations on an image (Mordvintsev, Olah and Tyka 2015).

        I <- I + lr g / mean |g|,   g = dO/dI

    from the smallest octave to the image's own size; what was added to one octave is enlarged and carried into the
    next. The objective O is the layer's energy, the mean of its squared activations, or any other; for a class, its
    logit. Pictures larger than the model's input are covered with tiles of that size, shifted at random at each step,
    so that any model takes any image.

    Errors: LayerError (an unknown layer; with the nearest names), ImageError (the image), TargetError,
    GenerationError (NaN). Ctrl-C ends the dream and returns what there is.

    Pitfall: the result shows what the layer is sensitive to, not what is in the image.

    Example:
        >>> import deepviz, torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 14 * 14, 5))
        >>> dream = deepviz.DeepDream(net, "0", preprocess=deepviz.Preprocess(16), octaves=2, steps=2, side=24)
        >>> tuple(dream(deepviz.example_photo()).tensor.shape)
        (1, 3, 16, 24)
    """

    model: Annotated[Any, "A module, a loaded model, a name, or None for the bundled one."]
    layer: Annotated[Layer, "The layer whose activations are amplified, as `deepviz layers` lists them."] = None
    _: KW_ONLY
    target: Annotated[
        Any, "Increased instead: a class's logit, by index or label; or an expression such as 'fox - wolf'."
    ] = None
    objective: Annotated[Any, "Increased instead: an objective, an expression or a callable."] = None
    octaves: Annotated[int, Ge(1), "Sizes of the picture, the smallest first."] = 4
    octave_scale: Annotated[float, Gt(1), "Each octave is larger than the one before by this factor."] = 1.4
    steps: Annotated[int, Ge(1), "Steps in each octave."] = 12
    lr: Annotated[float, Gt(0), Le(1), "Mean change of a pixel at a step, in pixels from 0 to 1."] = 0.01
    side: Annotated[
        int | None, Ge(1), "Longer side of the picture; None: twice that of the model's input, at most its own."
    ] = None
    seed: Annotated[Seed, "Seed of the tiles' shifts."] = 0
    preprocess: Annotated[
        Preprocess | Callable[..., Any] | None, "The model's preprocessing, if it cannot be read from the model."
    ] = None
    extra: Annotated[Any, "What the model takes beside the image: tensors with one row, or `deepviz.shared`."] = None

    @property
    def target_class(self) -> int | None:
        """The former name of `target`."""
        warnings.warn("target_class is deprecated: use target", DeprecationWarning, stacklevel=2)
        return cast(int | None, self.target)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", load_model(self.model, preprocess=self.preprocess))
        if self.target is not None:
            object.__setattr__(self, "target", target_of(self.target, self.model.labels))
        if sum(given is not None for given in (self.layer, self.target, self.objective)) != 1:
            raise TargetError("DeepDream takes exactly one of layer, target and objective")
        if isinstance(self.layer, nn.Module):
            object.__setattr__(self, "layer", layer_name(original(self.model.module), self.layer))
        if self.objective is not None:
            object.__setattr__(self, "objective", objective_alone(self.objective, self.model.labels))
        validate_fields(self)
        if not isinstance(self.model.preprocess, Preprocess):
            raise ModelError(
                f"the size and normalisation of what {self.model.name} takes are not known: pass preprocess="
            )
        if self._objective.joint:
            raise TargetError(f"DeepDream takes one image, so {self._objective} has nothing to compare it with")
        check_layers(original(self.model.module), [self._objective])

    @property
    def _objective(self) -> Objective:
        if isinstance(self.layer, str):
            return Energy(self.layer)
        found = self.target if self.objective is None else self.objective
        return Logit(found) if isinstance(found, int) else cast(Objective, found)

    def __call__(
        self,
        photo: Any,
        save_dir: str | os.PathLike[str] | None = None,
        *,
        progress: Callable[[Step], object] | None = None,
    ) -> Generated:
        """Amplify the objective on an image.

        Args:
            photo: a path, PIL image or array.
            save_dir: a folder for the image, its octaves and their animation.
            progress: called after each step.

        Raises:
            OutputError: if nothing can be written to `save_dir`; before any work.
            GenerationError: if the gradient became NaN or infinite; what there is has been saved.
        """
        if save_dir is not None:
            probe_folder(Path(save_dir))
        opened = open_photo(photo)
        picture = opened.picture.convert("L" if len(self.model.preprocess.mean) == 1 else "RGB")
        pixels = torch.from_numpy(np.array(picture)).reshape(picture.height, picture.width, -1)
        module = original(self.model.module)
        device, dtype = self.model.home
        start = pixels.permute(2, 0, 1)[None].to(device, torch.promote_types(dtype, torch.float32)) / 255
        with borrowed(module):
            generated, failure = self._dreamed(Call(module, Diagnostics()), start, opened.name, progress)
        if save_dir is not None:
            generated.save(Path(save_dir))
        warn_of_stillness(generated)
        if failure is not None:
            failure.generated = generated
            raise failure
        return generated

    def _dreamed(
        self, call: Call, start: Tensor, name: str, progress: Callable[[Step], object] | None
    ) -> tuple[Generated, GenerationError | None]:
        extra = along_of(self.model, self.extra, 1)
        failure: GenerationError | None = None
        sizes = self._sizes((start.shape[2], start.shape[3]))
        no_class = torch.full((1,), math.nan)
        taken: list[Step] = []
        frames: list[Frame] = []
        image = detail = _resized(start, sizes[0]) * 0
        importance = detail[:, :1]

        def dreamed() -> Tensor:
            return image

        try:
            for size in sizes:
                base = _resized(start, size)
                # what was dreamed so far, on the sharper picture
                image = (base + _resized(detail, size)).clamp(0, 1)
                importance = _resized(importance, size)
                for _ in range(self.steps):
                    g, value = self._gradient(call, image, extra, len(taken))
                    importance = importance + g.abs().mean(1, keepdim=True)
                    image = (image + self.lr * g / g.abs().mean().clamp_min(1e-12)).clamp(0, 1)
                    taken.append(Step(len(taken) + 1, len(sizes) * self.steps, value, no_class, dreamed))
                    if progress is not None:
                        progress(taken[-1])
                detail = image - base
                frames.append(Frame(len(taken), as_bytes(_resized(image, sizes[-1]))))
        except GenerationError as error:
            failure = error
        except KeyboardInterrupt:
            pass  # what there is, is returned: `complete` tells
        if tuple(image.shape[2:]) != sizes[-1]:
            # stopped on the way: what was dreamed so far, on the picture itself
            image = _resized(start, sizes[-1]) + _resized(
                image - _resized(start, (image.shape[2], image.shape[3])), sizes[-1]
            )
            importance = _resized(importance, sizes[-1])
        image = image.clamp(0, 1)
        none = torch.empty(0, 1)
        generated = Generated(
            tensor=image.float().cpu(),
            titles=(f"{Path(name).stem}, {self._title}",),
            targets=(class_of(self._objective),),
            scores=torch.stack([step.scores for step in taken]) if taken else none,
            probabilities=torch.stack([step.probabilities for step in taken]) if taken else none,
            final_scores=self._judge(call, image, extra),
            final_probabilities=torch.full((1,), math.nan),
            importance=importance.clamp_min(0).float().cpu(),
            frames=tuple(frames),
            settings=self.settings(name),
            complete=len(taken) == len(sizes) * self.steps,
            output=call.notes.facts.get("output"),
            notes=tuple(call.notes.facts[name] for name in ("score",) if name in call.notes.facts),
        )
        return generated, failure

    @property
    def _title(self) -> str:
        return title_of(self._objective, self.model.label)

    def settings(self, photo: str) -> dict[str, Any]:
        """What determines the image, as plain values for JSON."""
        kept = [field.name for field in fields(self) if field.name not in ("model", "preprocess", "extra")]
        options = {name: plain(getattr(self, name)) for name in kept}
        return {"photo": photo, **options, "extra": described(self.extra), **model_record(self.model)}

    def _sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """The octaves' (height, width), none shorter than half the model's input."""
        most = self.side or min(max(size), 2 * max(self.model.preprocess.input_size))
        share = most / max(size)
        least = max(self.model.preprocess.input_size) / 2
        sizes = []
        for octave in range(self.octaves):
            smaller = share / self.octave_scale**octave
            if octave == 0 or min(size) * smaller >= least:
                sizes.append((max(1, round(size[0] * smaller)), max(1, round(size[1] * smaller))))
        return sizes[::-1]

    def _judge(self, call: Call, image: Tensor, extra: Inputs | None) -> Tensor:
        """The mean objective of the tiles of a finished picture, not shifted, in 8-bit pixels, (1,)."""
        pixels = as_bytes(image).permute(0, 3, 1, 2).to(image) / 255
        tiles = [pixels[:, :, down, along] for down, along in self._covered(pixels)]
        values = []
        for rows in spans(len(tiles), ROWS):
            # with a graph, as at each step: it tells whether the model ends in a sigmoid
            leaf = fresh_leaf(torch.cat(tiles[rows]))
            values.append(self._scores(call, leaf, extra).detach())
        return _mean(values)

    def _covered(self, image: Tensor) -> list[tuple[slice, slice]]:
        return list(_tiles((image.shape[2], image.shape[3]), self.model.preprocess.input_size))

    def _scores(self, call: Call, tiles: Tensor, extra: Inputs | None) -> Tensor:
        """The objective of each tile, (n,), all with the one row of what goes along."""
        rows = None if extra is None else extra.rows(torch.zeros(len(tiles), dtype=torch.long))
        return evaluate_objectives(call, self.model, [self._objective] * len(tiles), tiles, tiles, rows).values

    def _gradient(self, call: Call, image: Tensor, extra: Inputs | None, number: int) -> tuple[Tensor, Tensor]:
        """dO/dI, summed over tiles that cover the picture, shifted at random; and the mean objective, (1,)."""
        generator = generator_of(self.seed, number)
        shift = [int(torch.randint(side, (), generator=generator)) for side in image.shape[2:]]
        rolled = image.roll(shift, (2, 3))
        boxes = self._covered(image)
        total, values = torch.zeros_like(image), []
        for rows in spans(len(boxes), ROWS):
            tiles = fresh_leaf(torch.cat([rolled[:, :, down, along] for down, along in boxes[rows]]))
            score = self._scores(call, tiles, extra)
            (g,) = differentiate(score.sum(), [tiles]) if score.requires_grad else (None,)
            if g is None or not bool(g.isfinite().all()):
                raise GenerationError(
                    f"the objective ({self._objective}) has no finite gradient at step {number + 1}: "
                    "choose another layer"
                )
            for (down, along), part in zip(boxes[rows], g, strict=True):
                total[0, :, down, along] += part
            values.append(score.detach())
        return total.roll([-by for by in shift], (2, 3)), _mean(values)


def _mean(values: list[Tensor]) -> Tensor:
    return torch.cat(values).mean(0, keepdim=True).double().cpu()


def _tiles(size: tuple[int, int], tile: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Windows of the size of `tile`, or of the picture where that is smaller, that cover it; the last ones overlap."""

    def starts(side: int, length: int) -> list[int]:
        return [min(start, side - length) for start in range(0, side, length)]

    h, w = min(size[0], tile[0]), min(size[1], tile[1])
    for top in starts(size[0], h):
        for left in starts(size[1], w):
            yield slice(top, top + h), slice(left, left + w)


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[2:]) == size:
        return image
    return F.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False)
