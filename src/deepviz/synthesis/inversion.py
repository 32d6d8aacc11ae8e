"""`inversion`: the image that a layer cannot distinguish from another."""

from __future__ import annotations

from typing import Any

import torch

from deepviz.diagnostics import Diagnostics
from deepviz.inputs import Inputs
from deepviz.models import Preprocess, load_model
from deepviz.objectives import Energy, Match, TotalVariation
from deepviz.probe.borrow import borrowed, original
from deepviz.probe.call import Call
from deepviz.probe.capture import layer_name
from deepviz.synthesis.canvas import Fourier
from deepviz.synthesis.generator import ImageGenerator
from deepviz.synthesis.scoring import look_with_layers

SMOOTHNESS = 1e-5
"""Weight of the total variation against the relative distance of the activations."""


def inversion(
    model: Any, photo: Any, layer: str, *, preprocess: Preprocess | None = None, extra: Any = None, **options: Any
) -> ImageGenerator:
    """A generator of the image whose activations at a layer match an image's (Mahendran and Vedaldi 2015).

        I* = argmin_I  |A(I) - A(photo)|^2 / |A(photo)|^2 + lambda TV(I)

    The layer distinguishes what the generated image has in common with the original; it does not distinguish what is
    missing or different.

    Args:
        model: as `ImageGenerator` takes it.
        photo: a path, PIL image or array; a tensor is taken as the model's input.
        layer: its name, as `deepviz layers` lists them.
        preprocess: as `ImageGenerator` takes it.
        extra: as `ImageGenerator` takes it, for this one image.
        options: of `ImageGenerator`, such as steps, canvas or seed; no transforms by default, since the layer's maps
            know where things are, and with no preset a `Fourier` canvas without a limit, since an image may be
            darker or rougher than most.

    Example:
        >>> import deepviz, torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 14 * 14, 5))
        >>> made = inversion(net, deepviz.example_photo(), "0", preprocess=deepviz.Preprocess(16), steps=50)()
        >>> bool(made.scores[-1] > made.scores[0])
        True
    """
    loaded = load_model(model, preprocess=preprocess)
    module = original(loaded.module)
    layer = layer_name(module, layer)
    x = loaded.prepare(photo).x[None].to(*loaded.home)
    inputs = Inputs(x, extra).to(*loaded.home)
    with borrowed(module), torch.no_grad():
        seen = look_with_layers(Call(module, Diagnostics()), loaded, [Energy(layer)], inputs)
    objective = Match(layer, seen.layer(layer)[0].cpu()) - SMOOTHNESS * TotalVariation()
    canvas = {} if "preset" in options else {"canvas": Fourier(limit=None)}
    return ImageGenerator(loaded, objective=objective, extra=extra, **{"transforms": (), **canvas, **options})
