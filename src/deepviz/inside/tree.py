"""`viz_layers`: the modules of a network, what each answers, and what it sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import torch
from torch import nn

from deepviz.errors import LayerError, ModelError, ModelFailed
from deepviz.inputs import Inputs
from deepviz.inside.loading import ImageLike, Model, asked, neutral_input, one_input, take_model
from deepviz.inside.receptive import ModuleCall, ReceptiveField, module_calls
from deepviz.probe.borrow import borrowed
from deepviz.probe.grid import Grid
from deepviz.probe.layer_names import named, titles
from deepviz.probe.layers import choose_layer, probe_layers
from deepviz.probe.session import Session


@dataclass(frozen=True)
class LayerRow:
    """One call of one module, or a module that is never called.

    Args:
        name: as `layer=` takes it; "relu#2" is the second call of a module that is called several times.
        title: as people read it: of such a call "ReLU after conv2", else the name.
        depth: how many modules it lies in.
        kind: its class.
        shape: of its answer; None if it is never called, or returns no tensor.
        parameters: its own.
        parameters_inside: its own and those of all its parts, each counted once.
        field: what a position of its answer sees of the image; None for the whole image, or where it cannot be said.
        calls: how often the module is called.
        usable: whether the CAM methods can explain it.
        reason: why not.
        default: whether the CAM methods take it if no layer is named.
        grid: how its answer lies on the image; None if it does not.
    """

    name: str
    depth: int
    kind: str
    shape: tuple[int, ...] | None
    parameters: int
    parameters_inside: int
    field: ReceptiveField | None
    calls: int
    usable: bool
    reason: str
    default: bool
    grid: Grid | None
    title: str

    @property
    def named(self) -> str:
        """The name, and the title if that says more."""
        return named(self.name, self.title)

    @property
    def sees(self) -> str:
        """The receptive field in words."""
        if self.shape is None:
            return ""
        return "whole image" if self.field is None else str(self.field)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        field, grid = self.field, self.grid
        return {
            "layer": self.name,
            "title": self.title,
            "depth": self.depth,
            "type": self.kind,
            "output": None if self.shape is None else list(self.shape),
            "parameters": self.parameters,
            "parameters inside": self.parameters_inside,
            "receptive field": None if field is None else list(field.size),
            "step": None if field is None else list(field.step),
            "calls": self.calls,
            "usable": self.usable,
            "reason": self.reason,
            "default": self.default,
            "grid": None if grid is None else list(grid.size),
        }


@dataclass(frozen=True, repr=False)
class LayerTree:
    """The modules of a network, in the order in which it lists them.

    Args:
        model: its name.
        input: the shape of the input that they were seen with.
        parameters: of the whole network.
        rows: one per module, or per call of a module that is called several times.
    """

    model: str
    input: tuple[int, ...]
    parameters: int
    rows: tuple[LayerRow, ...]

    @property
    def default(self) -> LayerRow | None:
        """The row that the CAM methods take if no layer is named."""
        return next((row for row in self.rows if row.default), None)

    def __iter__(self) -> Iterator[LayerRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> LayerRow:
        """The row of that name.

        Raises:
            KeyError: if there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "model": self.model,
            "input": list(self.input),
            "parameters": self.parameters,
            "default": None if self.default is None else self.default.name,
            "layers": [row.to_dict() for row in self.rows],
        }

    def __str__(self) -> str:
        cells = [_HEAD, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
        return "\n".join([self._title, *(line.rstrip() for line in lines)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f'<th style="text-align:left">{escape(name)}</th>' for name in _HEAD)
        body = "".join(_html(row) for row in self.rows)
        return (
            f'<div style="font:13px sans-serif"><b>{escape(self._title)}</b>'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    @property
    def _title(self) -> str:
        return f"{self.model}: {self.parameters:,} parameters, input {_times(self.input)}"


def viz_layers(model: Model, image: ImageLike | Inputs | None = None, *, preprocess: Any = None) -> LayerTree:
    """The modules of a model: output shape, parameters, receptive field, and whether CAM methods can use them.

    The receptive field of a layer is followed through the operators of one forward pass: a window (convolution,
    pooling) of kernel k, dilation d, stride s and padding p turns a field of size r, step j and start o into

        r' = r + (k - 1) d j,    j' = j s,    o' = o - p j

    and where two paths meet, the field spans both. It is what a position *can* see, weights aside. Attention, global
    pooling and what hangs on it (squeeze and excitation), normalisation over positions, upsampling, and any operator
    that is not known count as "whole image".

    What CAM methods can use is found with noise of the input's shape: the first and the last of consecutive layers of
    one shape are checked for their place on the image (at most 12 backward passes each), and those between are taken
    to lie as these do; a layer that is named is checked itself.

    Args:
        model: an `nn.Module`, a `LoadedModel`, a name ("timm:resnet50"), or None for the bundled model.
        image: what the model is run on, since shapes depend on its size: a path, PIL image, array, a tensor
            (C, H, W), (C, L) or (C, D, H, W), or `deepviz.Inputs`; None: noise of the size that the model's images
            have.
        preprocess: as for `deepviz.explain`.

    Returns:
        A tree that prints as a table; `.rows`, `tree["layer4"]`, `.to_dict()`.

    Raises:
        ImageError: if there is no image, and the model does not say how large its input is.
        ModelFailed: if the model raises.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.Flatten(),
        ...                     nn.Linear(8 * 5 * 5, 10))
        >>> tree = viz_layers(net, torch.rand(3, 16, 16))
        >>> [(row.name, row.sees) for row in tree]
        [('0', '3 x 3, step 2'), ('1', '3 x 3, step 2'), ('2', '7 x 7, step 2'), ('3', 'whole image'), \
('4', 'whole image')]
        >>> tree.default.name, tree["2"].parameters
        ('2', 296)
    """
    loaded, call = take_model(model, image, preprocess)
    x = Inputs(neutral_input(loaded)) if image is None else one_input(loaded, image, call.model)
    session = asked(call, x, loaded.kind)
    shape = tuple(session.image().shape)
    with borrowed(call.model):
        answered = module_calls(call, x)
        usable, default = _usable(session)
    calls: dict[str, list[ModuleCall]] = {}
    for one in answered:
        calls.setdefault(one.path, []).append(one)
    kinds = {path: type(module).__name__ for path, module in call.model.named_modules()}
    called = titles((one.name, kinds[one.path]) for one in answered if one.shape is not None)
    rows = [
        row
        for path, module in call.model.named_modules()
        if path
        for row in _rows(path, module, calls.get(path, []), usable, default, _uncalled(path, module, calls), called)
    ]
    return LayerTree(loaded.name, shape, _count(call.model), tuple(rows))


Usable = dict[str, tuple[str, Grid | None]]
"""By name: why the CAM methods cannot use a layer, "" if they can, and its grid."""


def _usable(session: Session) -> tuple[Usable | str, str | None]:
    """What the CAM methods can use, and what they take by default; or why that cannot be known."""
    try:
        answers = probe_layers(session)
    except ModelFailed:
        raise
    except ModelError:
        return "the model gives no class scores", None
    found = {answer.name: (answer.reason, answer.grid) for answer in answers}
    try:
        return found, choose_layer(session, None).name
    except LayerError:
        return found, None


def _rows(
    path: str,
    module: nn.Module,
    calls: list[ModuleCall],
    usable: Usable | str,
    default: str | None,
    uncalled: str,
    called: dict[str, str],
) -> Iterator[LayerRow]:
    for one in calls or [ModuleCall(path, path, None, None, on_image=False)]:
        if not calls:
            reason, grid = uncalled, None
        elif one.shape is None:
            reason, grid = "returns no tensor", None
        elif isinstance(usable, str):
            reason, grid = usable, None
        else:
            reason, grid = usable.get(one.name, ("its output has no gradient", None))
        yield LayerRow(
            name=one.name,
            depth=path.count("."),
            kind=type(module).__name__,
            shape=one.shape,
            parameters=sum(parameter.numel() for parameter in module.parameters(recurse=False)),
            parameters_inside=_count(module),
            field=one.field,
            calls=len(calls),
            usable=not reason,
            reason=reason,
            default=one.name == default,
            grid=grid,
            title=called.get(one.name, one.name),
        )


def _uncalled(path: str, module: nn.Module, calls: dict[str, list[ModuleCall]]) -> str:
    """What to say of a module that is not called itself."""
    if isinstance(module, torch.jit.ScriptModule):
        return "TorchScript cannot be hooked"
    return "only its parts are called" if any(name.startswith(f"{path}.") for name in calls) else "never called"


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


_HEAD = ("layer", "type", "output", "parameters", "sees", "for CAM methods")


def _cells(row: LayerRow) -> tuple[str, ...]:
    grid = f" ({row.grid})" if row.grid is not None and row.grid.kind != "channels first" else ""
    use = ("yes, by default" if row.default else "yes") + grid if row.usable else row.reason
    output = "" if row.shape is None else _times(row.shape)
    inside = f"{row.parameters_inside:,}" if row.parameters_inside else ""
    return "  " * row.depth + row.named, row.kind, output, inside, row.sees, use


def _html(row: LayerRow) -> str:
    cells = "".join(f"<td style='text-align:left;white-space:pre'>{escape(cell)}</td>" for cell in _cells(row))
    style = ' style="font-weight:bold"' if row.default else ' style="opacity:.6"' if not row.usable else ""
    return f"<tr{style}>{cells}</tr>"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
