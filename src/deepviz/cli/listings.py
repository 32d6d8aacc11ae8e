"""`deepviz methods` and `deepviz layers`: what exists."""

from __future__ import annotations

from json import dumps
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from deepviz import catalog
from deepviz.models import LoadedModel, Preprocess, load_model
from deepviz.notes import Notes
from deepviz.probe.borrow import borrowed, original
from deepviz.probe.gradient import Call
from deepviz.probe.layers import Answer, probe_layers
from deepviz.target import Score

USUAL_SIZE = 224


def methods(*, json: Annotated[bool, Parameter(negative="", help="Print as JSON.")] = False) -> None:
    """List the methods: what each computes, its cost, paper and options."""
    if json:
        print(dumps({name: _described(name) for name in catalog.METHODS}, indent=2))
        return
    for name, cls in catalog.METHODS.items():
        print(f"{name}: {catalog.summary(cls)}")
        print(f"    cost: {cls.cost}; {cls.paper}")
        for option in catalog.options(cls):
            print(f"    --{name}-{option.flag} ({option.takes}; default {option.default}): {option.help}")


def _described(name: str) -> dict[str, Any]:
    cls = catalog.METHODS[name]
    return {
        "title": cls.title,
        "summary": catalog.summary(cls),
        "cost": cls.cost,
        "paper": cls.paper,
        "options": {
            option.name: {"takes": option.takes, "default": str(option.default), "help": option.help}
            for option in catalog.options(cls)
        },
    }


def layers(
    model: str | None = None,
    *,
    weights: Annotated[str | None, Parameter(help="A weights file, or 'random'.")] = None,
    size: Annotated[int | None, Parameter(help="Side of the square input, if the model does not say.")] = None,
    all: Annotated[bool, Parameter(negative="", help="Also layers that cannot be explained, with the reason.")] = False,
    json: Annotated[bool, Parameter(negative="", help="Print as JSON.")] = False,
) -> None:
    """List a model's layers in the order of their answers: shape, grid, and whether Grad-CAM can explain them."""
    loaded = load_model(model, weights=weights)
    answers = _probed(loaded, size)
    shown = [answer for answer in answers if all or answer.usable]
    if json:
        print(dumps([_as_row(answer) for answer in shown], indent=2))
        return
    table = Table("layer", "type", "output", "grid", *(["usable"] if all else []), box=None, pad_edge=False)
    for answer in shown:
        shape = " x ".join(map(str, answer.shape))
        row = [answer.name, answer.type, shape, str(answer.grid or "")]
        table.add_row(*row, *([answer.reason or "yes"] if all else []))
    Console(width=None if Console().is_terminal else 200, highlight=False).print(table)
    print(f"{sum(answer.usable for answer in answers)} of {len(answers)} layers of {loaded.name} can be explained")


def _as_row(answer: Answer) -> dict[str, Any]:
    grid = answer.grid
    return {
        "layer": answer.name,
        "type": answer.type,
        "output": list(answer.shape),
        "grid": None if grid is None else [grid.h, grid.w],
        "usable": answer.usable,
        "reason": answer.reason,
    }


def _probed(loaded: LoadedModel, size: int | None) -> list[Answer]:
    module = original(loaded.module)
    height, width, channels = _input_size(loaded, size)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, channels, height, width, generator=generator).to(*loaded.home)
    with borrowed(module):
        return probe_layers(Call(module, Notes()), x, Score(None, 1))


def _input_size(loaded: LoadedModel, size: int | None) -> tuple[int, int, int]:
    known = loaded.preprocess
    if not isinstance(known, Preprocess):
        return size or USUAL_SIZE, size or USUAL_SIZE, 3
    height, width = (known.size, known.size) if isinstance(known.size, int) else known.size
    return size or height, size or width, len(known.mean)
