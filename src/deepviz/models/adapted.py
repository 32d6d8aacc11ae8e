"""A model whose output is read as that of a task: a detector's as `Candidates`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from deepviz.models.preprocess import Preprocess
from deepviz.objectives.candidates import Candidates
from deepviz.probe.black_box import as_module
from deepviz.probe.outputs import Kind


class Adapted(nn.Module):
    """A model that is run in another way, or whose output is read; its layers keep their names.

    Args:
        model: the model; it is not changed, and its parts are shared.
        run: called with the model and what this is called with.
        kind: what it returns.
    """

    def __init__(self, model: nn.Module, run: Callable[..., Any], kind: Kind) -> None:
        super().__init__()
        for name, part in model.named_children():
            self.add_module(name, part)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in model.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.deepviz_output: Kind = kind
        self._run = run
        self._whole = (model,)  # not as a part, whose layers would be there twice
        self.training = model.training

    @property
    def deepviz_model(self) -> nn.Module:  # no part of a model is called so, as many are called "model"
        """The model itself."""
        return self._whole[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model is run to."""
        before = self.deepviz_model.training
        # the flag of the whole model, which setting its parts does not change
        self.deepviz_model.training = self.training
        try:
            return self._run(self.deepviz_model, *args, **kwargs)
        finally:
            self.deepviz_model.training = before


@dataclass(frozen=True, eq=False)
class KnownModel:
    """A model of a library that is known.

    Args:
        module: returns `Candidates`, or maps; adapted, if it did not.
        preprocess: what the library does to an image; None if the module does not say.
        labels: of its classes, if it says so.
        notes: what was assumed, one sentence each.
    """

    module: nn.Module
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def detector(model: nn.Module | Callable[..., Any], read: Callable[[Any], Candidates]) -> nn.Module:
    """A detector of your own, to be explained: its output is read as `Candidates`.

    Args:
        model: takes images (N, C, H, W); any callable, for methods that need forward passes alone.
        read: from the output of the model to the candidates of the N images.

    Example:
        A network with a logit and a box for each of four cells:

        >>> import deepviz, torch
        >>> from deepviz.objectives import Box, Candidates
        >>> net = torch.nn.Conv2d(3, 1, 8, stride=8)
        >>> cells = torch.tensor([[0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [8, 8, 16, 16.0]])
        >>> def read(output):
        ...     logits = output.flatten(1)[..., None]
        ...     return Candidates(cells.expand(len(output), 4, 4), logits, logits.sigmoid(), threshold=0.1)
        >>> explained, = deepviz.explain(deepviz.detector(net, read), torch.rand(3, 16, 16), "gradient", target=Box())
        >>> len(explained.target.box)
        4
    """

    def run(model: nn.Module, *args: Any, **kwargs: Any) -> Candidates:
        return read(model(*args, **kwargs))

    return Adapted(as_module(model), run, "detections")
