"""The input that stands for "nothing there": where a path starts, what a removed pixel becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard, get_args

import torch
from torch import Tensor

from deepviz.inputs import Leaves, is_image_like
from deepviz.options import Baseline, Colour, Noise, having
from deepviz.probe.seeds import generator_of

Colours = Callable[[str], Tensor]
"""From the name of a colour to its value in the input's normalised space, (C, 1, 1)."""
BLUR = 0.1
"""The standard deviation of the blur, in shorter sides of the image."""
_COLOURS = get_args(Colour)
_NOISES = get_args(Noise)


def resolve_baseline(baseline: Baseline | Noise, colours: Colours) -> Baseline | Noise:
    """The baseline "black" as what the preprocessing makes of black, and so on; any other as it is."""
    return colours(baseline) if isinstance(baseline, str) and baseline in _COLOURS else baseline


def resolve_baselines(value: Any, colours: Colours) -> dict[str, Any]:
    """The options of a method or metric with baselines by name, each as `resolve_baseline`."""
    changed: dict[str, Any] = {
        name: resolve_baseline(getattr(value, name), colours) for name in having(type(value), "baseline")
    }
    for name in having(type(value), "baselines"):
        baselines = getattr(value, name)
        if any(isinstance(baseline, str) for baseline in baselines or ()):
            changed[name] = tuple(resolve_baseline(baseline, colours) for baseline in baselines)
    return changed


def reference(x: Tensor, baseline: Baseline) -> Tensor:
    """The baseline of each row of `x` (N, C, H, W), of the same shape and type.

    Raises:
        ValueError: for a colour by name, whose value is not known here, and a tensor that does not fit.
    """
    if isinstance(baseline, str):
        if baseline == "blur":
            if not is_image_like(x):
                raise ValueError(f"the baseline blur is for images (N, C, *space), not for an input {tuple(x.shape)}")
            return blurred(x, BLUR * min(x.shape[2:]))
        raise ValueError(
            f"the baseline {baseline!r} is a colour, and a bare module's preprocessing is unknown: use "
            "a loaded model, or give the number or tensor in the input's normalised space"
        )
    value = torch.as_tensor(baseline, dtype=x.dtype, device=x.device)
    try:
        return value.expand_as(x).clone()
    except RuntimeError:
        raise ValueError(
            f"the baseline {tuple(value.shape)} does not broadcast to the input {tuple(x.shape)}"
        ) from None


def references(x: Leaves, baselines: Sequence[Baseline | Noise], draws: int = 1, seed: int = 0) -> list[Leaves]:
    """The values of every baseline; of a noise, those of each of its draws.

    Raises:
        ValueError: as `reference`.
    """
    found = []
    for baseline in baselines:
        if is_noise(baseline):
            found += [x.map(lambda leaf: drawn(leaf, baseline, generator_of(seed, k))) for k in range(draws)]  # noqa: B023
        else:
            plain: Any = baseline
            found.append(x.map(lambda leaf: reference(leaf, plain)))  # noqa: B023
    return found


def is_noise(baseline: Baseline | Noise) -> TypeGuard[Noise]:
    """Whether a baseline is drawn."""
    return isinstance(baseline, str) and baseline in _NOISES


def drawn(x: Tensor, noise: Noise, generator: torch.Generator) -> Tensor:
    """Noise of the shape and type of `x`, in units of each channel of each row; one draw serves all rows, so that none
    depends on the others.

        uniform-noise    min + (max - min) u,    u ~ U(0, 1)
        gaussian-noise   mean + std e,           e ~ N(0, 1)
    """
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    own = precise.flatten(2) if is_image_like(x) else precise.reshape(len(x), 1, -1)
    each = (*own.shape[:2], *[1] * x.ndim)[: x.ndim]
    draw = torch.rand if noise == "uniform-noise" else torch.randn
    unit = draw(x.shape[1:], generator=generator, dtype=precise.dtype).to(x.device)
    if noise == "uniform-noise":
        low, high = own.amin(-1).view(each), own.amax(-1).view(each)
        return torch.lerp(low, high, unit).to(x.dtype)
    std, mean = torch.std_mean(own, -1, correction=0)
    return (mean.view(each) + std.view(each) * unit).to(x.dtype)


def blurred(x: Tensor, sigma: float, truncate: float = 3.0) -> Tensor:
    """A Gaussian blur of standard deviation `sigma` pixels, the border pixels repeated outwards; the kernel ends after
    `truncate` standard deviations."""
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    for axis in range(2, x.ndim):
        weights = _blur_weights(x.shape[axis], sigma, round(truncate * sigma)).to(precise)
        precise = (precise.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return precise.to(x.dtype)


def _blur_weights(side: int, sigma: float, radius: int) -> Tensor:
    """(side, side): what each place takes of each other, those beyond the border counting as the one at the border.

    A product with it is a hundred times as fast as a convolution with a wide kernel.
    """
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2) if radius else torch.ones(1, dtype=torch.float64)
    places = (torch.arange(side)[:, None] + offsets).clamp(0, side - 1)
    weights = torch.zeros(side, side, dtype=torch.float64)
    return weights.scatter_add_(1, places, (kernel / kernel.sum()).expand(side, -1))
