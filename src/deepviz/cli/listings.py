"""`deepviz methods` and `deepviz layers`: what exists."""

from __future__ import annotations

from dataclasses import replace
from json import dumps
from typing import Annotated, Any

import torch
from cyclopts import Parameter

from deepviz import catalog
from deepviz.cli.model_options import NOTHING_SAID, LoadingOptions, Weights, loaded_model
from deepviz.inside import viz_layers
from deepviz.models import Preprocess

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
            print(f"    --{name}-{option.flag} ({option.takes}; default {option.default_text}): {option.help}")


def _described(name: str) -> dict[str, Any]:
    cls = catalog.METHODS[name]
    return {
        "title": cls.title,
        "summary": catalog.summary(cls),
        "cost": cls.cost,
        "passes": cls().passes(),
        "needs": str(cls().requires),
        "in default set": cls.in_default_set,
        "paper": cls.paper,
        "options": {
            option.name: {"takes": option.takes, "default": option.default_text, "help": option.help}
            for option in catalog.options(cls)
        },
    }


def layers(
    model: str | None = None,
    *,
    weights: Weights = None,
    usable: Annotated[bool, Parameter(negative="", help="Only layers that Grad-CAM can explain.")] = False,
    json: Annotated[bool, Parameter(negative="", help="Print as JSON.")] = False,
    loading: LoadingOptions = NOTHING_SAID,
) -> None:
    """List a model's layers: output, grid, parameters, receptive field, and whether Grad-CAM can explain them."""
    loaded = loaded_model(model, weights, loading=loading, images=False)
    tree = viz_layers(loaded, None if isinstance(loaded.preprocess, Preprocess) else _noise())
    rows = tuple(row for row in tree if row.usable or not usable)
    if json:
        print(dumps([row.to_dict() for row in rows], indent=2))
        return
    print(replace(tree, rows=rows))
    explained = sum(row.usable for row in tree)
    found = "" if tree.default is None else f"; Grad-CAM takes {tree.default.name} if none is named"
    print(f"{explained} of {len(tree)} layers of {loaded.name} can be explained{found}")


def _noise() -> torch.Tensor:
    return torch.randn(3, USUAL_SIZE, USUAL_SIZE, generator=torch.Generator().manual_seed(0))
