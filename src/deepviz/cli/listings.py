"""`deepviz methods`, `deepviz objectives` and `deepviz layers`: what exists."""

from __future__ import annotations

from dataclasses import replace
from json import dumps
from typing import Annotated, Any

import torch
from cyclopts import Parameter

from deepviz import catalog
from deepviz.cli.model_options import NOTHING_SAID, Labels, LoadingOptions, OutputKind, Weights, loaded_model
from deepviz.inside import viz_layers
from deepviz.models import LoadedModel, Preprocess
from deepviz.models.stored import FilePreprocess
from deepviz.objectives.objective import literal
from deepviz.runs.look import BACKGROUND

USUAL_SIZE = 224


def methods(*, json: Annotated[bool, Parameter(negative="", help="Print as JSON.")] = False) -> None:
    """List the methods: what each computes, its cost, paper and options."""
    if json:
        print(dumps({name: _described(name) for name in catalog.METHODS}, indent=2))
        return
    for family, names in catalog.families().items():
        costly = [name for name in names if name not in (catalog.members(family) or [])]
        but = f" but {' and '.join(costly)}, which take thousands of passes" if costly else ""
        print(f"# {catalog.FAMILY_TITLES.get(family, family)}: -m {family} stands for all of them{but}\n")
        told: dict[str, catalog.Option] = {}
        for name in names:
            cls = catalog.METHODS[name]
            print(f"{name}: {catalog.summary(cls)}")
            print(f"    cost: {cls.cost}; {cls.paper}")
            given = catalog.options(cls)
            as_above = [option.name for option in given if told.get(option.name) == option and not cls.in_default_set]
            told = {option.name: option for option in given} | told
            if as_above:
                print(f"    {', '.join(as_above)}: as above")
            for option in given:
                if option.name in as_above:
                    continue
                written = f"--{name}-{option.flag}" if cls.in_default_set else f"{name}({option.name}=...)"
                print(f"    {written} ({option.takes}; default {option.default_text}): {option.help}")
        print()


def _described(name: str) -> dict[str, Any]:
    cls = catalog.METHODS[name]
    return {
        "title": cls.title,
        "family": catalog.family_of(name),
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
    tree = viz_layers(loaded, _noise(loaded))
    rows = tuple(row for row in tree if row.usable or not usable)
    if json:
        print(dumps([row.to_dict() for row in rows], indent=2))
        return
    print(replace(tree, rows=rows))
    explained = sum(row.usable for row in tree)
    found = "" if tree.default is None else f"; Grad-CAM takes {tree.default.named} if none is named"
    print(f"{explained} of {len(tree)} layers of {loaded.name} can be explained{found}")


def objectives(
    model: str | None = None,
    *,
    weights: Weights = None,
    labels: Labels = None,
    output_kind: OutputKind = "auto",
    json: Annotated[bool, Parameter(negative="", help="Print as JSON.")] = False,
    loading: LoadingOptions = NOTHING_SAID,
) -> None:
    """List what --target can ask of a model, each with an example."""
    found = askable(loaded_model(model, weights, labels, None, output_kind, loading, images=False))
    if json:
        print(dumps([{"target": example, "explains": what} for example, what in found], indent=2))
        return
    wide = max(len(example) for example, _ in found)
    print("\n".join(f"{example:<{wide}}  {what}" for example, what in found))


def askable(loaded: LoadedModel) -> list[tuple[str, str]]:
    """Targets as the command line writes them, with what each explains; examples that this model has."""
    names = [name for name in loaded.labels or () if name.strip("_ ").lower() not in BACKGROUND]
    one, other = map(literal, names[:2] if len(names) > 1 else (0, 1))
    if loaded.kind == "detections":
        return [
            ("box()", "the detection with the highest score; also the default"),
            (f"box({one})", "the best detection of a class"),
            ("box(index=1)", "the detection with the next highest score"),
            (
                "box(box=(40, 30, 200, 180))",
                "the detection that overlaps a box most (left, top, right, bottom)",
            ),
            ("all-boxes", "each detection above the detector's threshold"),
            (f"box({one}) - box({other})", "what one detection has more than the other"),
        ]
    if loaded.kind == "maps":
        return [
            ("pixels()", "the class of the largest region"),
            (f"pixels({one})", "a class, over the pixels that are predicted as it"),
            (f"pixels({one}, None)", "a class, over all pixels"),
            (f"pixels({one}, (120, 80))", "a class at a point: x, y in pixels of the image"),
            (f"pixels({one}) - pixels({other})", "what one region has more than the other"),
        ]
    channel = (f"channel({literal(_layer(loaded))}, 0)", "the mean of a channel of a layer")
    if loaded.kind == "embedding":
        texts = [
            ('text("a red car")', "how well the image fits a text"),
            ('text("a red car", ("a car",))', "why a red car, and not any car"),
        ]
        other_image = ('similarity(file("other.jpg"))', "how similar the image is to another")
        return [*(texts if loaded.texts is not None else ()), other_image, channel]
    if loaded.kind == "regression":
        return [("output(0)", "a number that the model returns, by its place"), channel]
    return [
        (one, "a class, by its label or index; by default the predicted one"),
        (f"{one} - {other}", "why one class and not the other"),
        (f"probability({one})", "the probability instead of the logit"),
        ("output(0)", "a number that the model returns, by its place"),
        channel,
    ]


def _layer(loaded: LoadedModel) -> str:
    """The layer that Grad-CAM takes, or else the last one that has a name."""
    tree = viz_layers(loaded, _noise(loaded))
    return next(iter(tree)).name if tree.default is None else tree.default.name


def _noise(loaded: LoadedModel) -> torch.Tensor | None:
    """An image for a model whose input size is not known; None if it is."""
    if isinstance(loaded.preprocess, (Preprocess, FilePreprocess)):
        return None
    return torch.randn(3, USUAL_SIZE, USUAL_SIZE, generator=torch.Generator().manual_seed(0))
