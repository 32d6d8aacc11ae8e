"""`ImageGenerator`: feature visualisation by gradient ascent."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor

from deepviz.diagnostics import Diagnostics, warn
from deepviz.errors import DeepVizError, GenerationError, ImageError, ModelError, TargetError
from deepviz.files import probe_folder
from deepviz.models import LoadedModel, Preprocess, load_model
from deepviz.names import renamed_keywords
from deepviz.objectives import Logit, Objective, Predicted
from deepviz.options import Ge, Gt, Seed, validate_fields
from deepviz.probe.borrow import borrowed, original
from deepviz.probe.call import Call
from deepviz.probe.outputs import describe
from deepviz.probe.seeds import generator_of
from deepviz.synthesis.ascent import Ascent, Step
from deepviz.synthesis.canvas import Canvas, Fourier, Size
from deepviz.synthesis.generated import (
    Frame,
    Generated,
    as_bytes,
    model_record,
    warn_of_other_classes,
    warn_of_stillness,
)
from deepviz.synthesis.presets import Optimizer, find_preset
from deepviz.synthesis.record import described, plain, value_of
from deepviz.synthesis.scoring import (
    along_of,
    check_kind,
    check_layers,
    class_of,
    objective_alone,
    target_of,
    title_of,
)
from deepviz.synthesis.transforms import Transform

FRAMES = 24
"""Intermediate images that are kept unless `every` is given."""


@renamed_keywords(target_class="target")
@dataclass(frozen=True, eq=False)
class ImageGenerator:
    """Feature visualisation: an image that maximises an objective, such as a class's score or a channel.

        I* = argmax_I  S_c(I) - lambda |I|^2        (Simonyan et al. 2013; S_c the score before the softmax)

    by gradient ascent on the parameters of a `canvas`, which make the image I; at each step random `transforms` augment
    the image, so that it has to score highly in any of them (Olah et al. 2017). The presets:
    "lucid", spatial frequencies and decorrelated colours; "maco", phases under the magnitudes of natural images
    (Fel et al. 2023); "simonyan", plain ascent on pixels with an L2 penalty.

    Several targets are drawn together, at one batched cost; each image is what it would be if drawn alone. The same
    settings, machine, number of threads and version of torch draw the same image, bit for bit.

    Errors: TargetError (an unknown class or label), LayerError (an objective's layer), ImageError (the start),
    ModelError (a model without preprocessing), GenerationError (the objective became NaN or infinite: it names the
    step, and `generated` holds the last good image; or no class's score depends on the image). A warning names
    finished images that the model does not predict as their class. Ctrl-C ends the drawing and returns what there is,
    with `complete` False.

    Where the model returns probabilities, the score is the logit before its final softmax or sigmoid (`notes` of the
    result). Penalties are in units of the image's pixels, whatever the scale of the network's input.

    Pitfall: the image shows what raises the score, not what the network was trained on, nor everything that raises it;
    another seed gives another image. Without transforms it is noise that other networks do not recognise.

    References: Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks" (2013), arXiv:1312.6034; Olah,
    Mordvintsev and Schubert, "Feature Visualization" (2017), doi:10.23915/distill.00007; Fel et al., "Unlocking Feature
    Visualization for Deeper Networks with MAgnitude Constrained Optimization" (2023), arXiv:2306.06805.

    Example:
        >>> import deepviz, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 5))
        >>> made = deepviz.ImageGenerator(net, 3, preprocess=deepviz.Preprocess(16), steps=4)()
        >>> made.tensor.shape, made.scores.shape
        (torch.Size([1, 3, 16, 16]), torch.Size([4, 1]))
    """

    model: Annotated[Any, "A module, a loaded model, a name, or None for the bundled one."]
    target: Annotated[
        Any, "An index, a label, an expression such as 'fox - wolf', an objective or a callable; or several of them."
    ] = None
    _: KW_ONLY
    objective: Annotated[Any, "Instead of a target: an objective, or several, an image for each."] = None
    preset: Annotated[str, "Preset that provides settings not given: lucid, maco or simonyan."] = "lucid"
    # None: the preset's, from __post_init__ on
    canvas: Annotated[Canvas, "What is optimised: Fourier(), Magnitude() or Pixels()."] = None  # type: ignore[assignment]
    transforms: Annotated[tuple[Transform, ...], "Random augmentations applied at each step, in order."] = None  # type: ignore[assignment]
    steps: Annotated[int, Ge(1), "Steps of the ascent; each costs one gradient per image."] = None  # type: ignore[assignment]
    lr: Annotated[float, Gt(0), "Learning rate at the first step."] = None  # type: ignore[assignment]
    cooling: Annotated[float, Gt(0), "Factor on the learning rate at the last step."] = None  # type: ignore[assignment]
    optimizer: Annotated[Optimizer, "adam, or ascent: plain gradient ascent."] = None  # type: ignore[assignment]
    penalty: Annotated[
        Objective | Literal[0] | None,
        "Subtracted from each objective, such as 1e-4 * L2(); None: the preset's, for targets that are classes or sums "
        "of them; 0: none.",
    ] = None
    start: Annotated[Any, "An image to start from, instead of noise."] = None
    copies: Annotated[int, Ge(1), "Images for each target, from different noise."] = 1
    seed: Annotated[Seed, "Seed of the initial noise and of the transforms."] = 0
    size: Annotated[int | Size | None, Ge(1), "Pixels of a side, or (height, width); None: the model's input."] = None
    preprocess: Annotated[
        Preprocess | Callable[..., Any] | None, "The model's preprocessing, if it cannot be read from the model."
    ] = None
    extra: Annotated[
        Any, "What the model takes beside the image: tensors with a row for each image drawn, or `deepviz.shared`."
    ] = None

    @property
    def target_class(self) -> tuple[int, ...]:
        """The former name of `target`."""
        warnings.warn("target_class is deprecated: use target", DeprecationWarning, stacklevel=2)
        return cast(tuple[int, ...], self.target)

    def __post_init__(self) -> None:
        preset = find_preset(self.preset)
        self._set("model", load_model(self.model, preprocess=self.preprocess))
        labels = self.model.labels
        self._set("objective", tuple(objective_alone(one, labels) for one in _several(self.objective)))
        self._set("target", tuple(target_of(one, labels) for one in _several(self.target)))
        if self.objective or not all(map(_is_of_classes, self.target)):
            preset = replace(preset, penalty=None)
        if self.start is not None and self.canvas is None and isinstance(preset.canvas, Fourier):
            # an image may be darker or rougher than most: a limit would change it at the first step
            preset = replace(preset, canvas=replace(preset.canvas, limit=None))
        for name in (field.name for field in fields(preset) if hasattr(self, field.name)):
            if getattr(self, name) is None:
                self._set(name, getattr(preset, name))
        self._set("transforms", _several(self.transforms))
        self._check()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check(self) -> None:
        validate_fields(self)
        for value in _several(self._penalty):
            check_kind(value, Objective, "an objective")
        if bool(self.target) == bool(self.objective):
            raise TargetError("give either a target, such as 282 or 'tiger cat', or an objective")
        if not isinstance(self.model.preprocess, Preprocess):
            raise ModelError(
                f"the size and normalisation of what {self.model.name} takes are not known: pass "
                "preprocess=deepviz.Preprocess(224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"
            )
        check_layers(original(self.model.module), (*self._drawn_for, *_several(self._penalty)))
        if self.copies > 1:
            self._check_copies()

    def _check_copies(self) -> None:
        """Copies differ in the noise that they start from, and in nothing else."""
        if self.start is not None:
            raise ValueError(f"{self.copies} copies would be identical, as all start from the same image: use copies=1")
        first, second = (self._noise(copy) for copy in range(2))
        if torch.equal(first, second):
            raise ValueError(
                f"{self.copies} copies would be identical, as {self.canvas} starts without noise: use copies=1, or a "
                "canvas with noise, such as Pixels(noise=0.01)"
            )

    def __call__(
        self,
        save_dir: str | os.PathLike[str] | None = None,
        *,
        every: int | None = None,
        progress: Callable[[Step], object] | None = None,
    ) -> Generated:
        """Generate the images.

        Args:
            save_dir: a folder for the finished images, for strips and animations of the steps, and for
                `generated.json`, from which `from_json` reproduces them.
            every: keep an intermediate image every so many steps; None: about 24 in all if there is a `save_dir`.
            progress: called after each step.

        Raises:
            OutputError: if nothing can be written to `save_dir`; before any work.
            GenerationError: if the objective became NaN or infinite, or the scores of all classes do not depend on the
                image at any step; what there is has been saved.
        """
        if every is not None and every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        if save_dir is not None:
            probe_folder(Path(save_dir))
            every = every or max(1, self.steps // FRAMES)
        generated, failure = self._drawn(every, progress)
        if save_dir is not None:
            generated.save(Path(save_dir))
        if failure is None and generated.complete:
            failure = _of_stillness(generated)
        if failure is None:
            warn_of_stillness(generated)
            if generated.complete:
                warn_of_other_classes(generated, self.model.label)
        if failure is not None:
            failure.generated = generated
            raise failure
        return generated

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objective of each image; copies stand next to each other."""
        drawn = self._drawn_for
        penalty = self._penalty
        if penalty is not None:
            drawn = tuple(objective - penalty for objective in drawn)
        return tuple(objective for objective in drawn for _ in range(self.copies))

    @property
    def _drawn_for(self) -> tuple[Objective, ...]:
        """The objectives or targets, without penalty and copies."""
        return tuple(Logit(one) if isinstance(one, int) else one for one in self.objective or self.target)

    @property
    def _penalty(self) -> Objective | None:
        off = isinstance(self.penalty, (int, float)) and self.penalty == 0
        return None if off else cast(Objective | None, self.penalty)

    def _drawn(
        self, every: int | None, progress: Callable[[Step], object] | None
    ) -> tuple[Generated, GenerationError | None]:
        module = original(self.model.module)
        failure: GenerationError | None = None
        taken: list[Step] = []
        frames: list[Frame] = []
        with borrowed(module):
            notes = Diagnostics()
            ascent = self._ascent(Call(module, notes))
            parameters = self._parameters()
            state = ascent.begin(parameters)
            try:
                for step in ascent.steps_from(state):
                    taken.append(step)
                    if every is not None and (step.number % every == 0 or step.number in (1, self.steps)):
                        frames.append(Frame(step.number, as_bytes(ascent.pixels(state.parameters))))
                    if progress is not None:
                        progress(step)
            except GenerationError as error:
                failure = error
            except KeyboardInterrupt:
                pass  # what there is, is returned: `complete` tells
            pixels = ascent.pixels(state.parameters)
            final = ascent.judge(as_bytes(pixels).permute(0, 3, 1, 2).to(pixels) / 255)
        classes = tuple(class_of(objective) for objective in ascent.objectives)
        generated = Generated(
            tensor=pixels.float().cpu(),
            titles=tuple(self._title(objective) for objective in ascent.objectives),
            targets=classes,
            scores=torch.stack([step.scores for step in taken]) if taken else torch.empty(0, len(pixels)),
            probabilities=torch.stack([step.probabilities for step in taken]) if taken else torch.empty(0, len(pixels)),
            final_scores=final.scores,
            final_probabilities=final.probabilities,
            importance=state.importance.float().cpu(),
            frames=tuple(frames),
            settings=self.settings(),
            complete=len(taken) == self.steps,
            output=notes.facts.get("output"),
            predicted=final.predictions,
            without_slope=final.without_slope,
            notes=tuple(notes.facts[name] for name in ("score",) if name in notes.facts),
        )
        return generated, failure

    def _ascent(self, call: Call) -> Ascent:
        return Ascent(
            call,
            self.model,
            self.objectives,
            self.canvas,
            self._canvas_size,
            self.transforms,
            self.steps,
            self.lr,
            self.cooling,
            self.optimizer,
            self.seed,
            along_of(self.model, self.extra, len(self.objectives)),
        )

    @property
    def _canvas_size(self) -> Size:
        if self.size is None:
            return cast(Size, self.model.preprocess.input_size)
        return (self.size, self.size) if isinstance(self.size, int) else cast(Size, tuple(self.size))

    def _parameters(self) -> Tensor:
        """Where the ascent starts, (N, ...), where the model is: of the image, or of noise that depends on the
        copy alone, so that an image is the same whatever is drawn beside it."""
        device, dtype = self.model.home
        dtype = torch.promote_types(dtype, torch.float32)
        if self.start is not None:
            pixels = self._start_pixels()[None].to(device, dtype)
            one = self.canvas.invert(pixels)
            return one.repeat(len(self.objectives), *(1 for _ in one.shape[1:]))
        drawn = [self._noise(copy) for copy in range(self.copies)]
        return (
            torch.stack(drawn)
            .repeat(len(self.objectives) // self.copies, *(1 for _ in drawn[0].shape))
            .to(device, dtype)
        )

    def _noise(self, copy: int) -> Tensor:
        return self.canvas.start(len(self.model.preprocess.mean), self._canvas_size, generator_of(self.seed, -copy))

    def _start_pixels(self) -> Tensor:
        """What to start from as pixels (C, H, W) of 8 bits: an image, cut as the model's preprocessing cuts it, or
        a tensor of such pixels."""
        channels, size = len(self.model.preprocess.mean), self._canvas_size
        if isinstance(self.start, Tensor):
            if self.start.shape != (channels, *size) or not self.start.is_floating_point():
                raise ImageError(f"start must be pixels {(channels, *size)} from 0 to 1, got {describe(self.start)}")
            low, high = float(self.start.min()), float(self.start.max())
            if not -0.5 / 255 <= low <= high <= 1 + 0.5 / 255:
                raise ImageError(
                    f"start must be pixels from 0 to 1 (preprocess.unnormalise), got {low:.3g} to {high:.3g}"
                )
            return rounded(self.start)
        preprocess = replace(self.model.preprocess, size=size)
        prepared = replace(self.model, preprocess=preprocess).prepare(self.start)
        return rounded(preprocess.unnormalise(prepared.x))

    def _title(self, objective: Objective) -> str:
        return title_of(objective, self.model.label)

    def settings(self) -> dict[str, Any]:
        """Everything that determines the images, as plain values for JSON; `from_json` reads them back."""
        kept = [field.name for field in fields(self) if field.name not in ("model", "preprocess", "start", "extra")]
        return {
            **{name: plain(getattr(self, name)) for name in kept},
            "start": None if self.start is None else plain(as_bytes(self._start_pixels()[None])[0]),
            "preprocess": plain(self.model.preprocess),
            "extra": described(self.extra),
            **model_record(self.model),
        }

    @classmethod
    def from_json(
        cls,
        record: str | os.PathLike[str] | Mapping[str, Any],
        model: Any = None,
        preprocess: Preprocess | None = None,
        extra: Any = None,
    ) -> ImageGenerator:
        """The generator that a `generated.json` records.

        Args:
            record: the file, or what it holds.
            model: the model, if it was a module; by default the recorded source is loaded.
            preprocess: instead of the recorded one.
            extra: what the model takes beside the image; the record holds only its shapes.

        Raises:
            ModelError: if the file holds no such record, or the model or `extra` has to be given. A warning where its
                weights, the number of threads or the versions are others: the images may differ.
        """
        held = dict(read_record(record))
        if "target_class" in held:  # as records of version 0.1 name it
            held.setdefault("target", held.pop("target_class"))
        recorded = dict(held["model"])
        if model is None and recorded["source"] == "module":
            raise ModelError(f"the record is of a module ({recorded['name']}): give it as model=")
        if extra is None and held.get("extra") is not None:
            raise ModelError(
                f"the record was made with extra, which is not stored: give it as extra= ({held['extra']})"
            )
        named = recorded["source"] if model is None and recorded["source"] != "bundled" else model
        kept = {field.name for field in fields(cls)} & set(held) - {"model", "start", "preprocess", "extra"}
        try:
            start = value_of(held.get("start"))
            made = cls(
                model if isinstance(model, LoadedModel) else load_model(named, output=recorded.get("output")),
                **{name: value_of(held[name]) for name in kept},
                start=None if start is None else start.permute(2, 0, 1) / 255,
                preprocess=preprocess or value_of(held.get("preprocess")),
                extra=extra,
            )
        except DeepVizError:
            raise
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ModelError(f"the record cannot be reproduced: {' '.join(str(error).split())}") from error
        now = made.settings()
        other = [name for name in ("threads", "versions") if held.get(name) != now[name]]
        other += ["weights"] * (recorded["sha256"] != now["model"]["sha256"])
        if other:
            warn(f"the images may differ from the recorded ones: other {' and '.join(other)}")
        return made


def _of_stillness(generated: Generated) -> GenerationError | None:
    """The error of images of classes of which none depends on its image; None if one does."""
    if not all(generated.still) or None in generated.targets:
        return None
    return GenerationError(
        f"zero gradient at every step for {', '.join(dict.fromkeys(generated.titles))}: the score does not depend on "
        "the image (weights of 0, a dead ReLU, a saturated softmax or rounding inside the model?), so nothing was drawn"
    )


def _is_of_classes(target: int | Objective) -> bool:
    """Whether a target is in the units of a class's score, for which the presets' penalties are made."""
    return isinstance(target, int) or all(isinstance(part, (Logit, Predicted)) for part in target.parts())


def _several(values: Any) -> tuple[Any, ...]:
    """One value, several or none (None), as a tuple."""
    if values is None:
        return ()
    return tuple(values) if isinstance(values, (list, tuple, range)) else (values,)


def rounded(pixels: Tensor) -> Tensor:
    """Pixels (C, H, W) at the nearest of 256 levels."""
    return as_bytes(pixels[None])[0].permute(2, 0, 1) / 255


def read_record(record: str | os.PathLike[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings in a `generated.json`, or in what it holds.

    Raises:
        ModelError: if there are none.
    """
    try:
        held = record if isinstance(record, Mapping) else json.loads(Path(record).read_text(encoding="utf-8"))
        held = held.get("settings", held)
        if not {"name", "source", "sha256"} <= set(held["model"]):
            raise TypeError("its model is not recorded")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{record} holds no record of generated images: {error}") from error
    return cast(Mapping[str, Any], held)
