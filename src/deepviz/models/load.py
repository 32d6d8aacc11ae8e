"""`load_model`: a name, a path or a module -> a `LoadedModel`."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from deepviz.errors import ModelError
from deepviz.models import sources
from deepviz.models.labels import read_labels
from deepviz.models.loaded import RANDOM, LoadedModel
from deepviz.models.preprocess import Preprocess
from deepviz.models.weights import load_state, non_finite, read_state
from deepviz.probe.outputs import Kind, check_kind


def load_model(
    spec: str | nn.Module | LoadedModel | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    preprocess: Preprocess | Callable[[Image.Image], Any] | None = None,
    labels: str | Path | Iterable[str] | None = None,
    output: Kind | None = None,
) -> LoadedModel:
    """Load a model, or say more about one.

    Args:
        spec: None or "bundled" for the bundled EfficientNet-Lite0; "timm:NAME", "torchvision:NAME", "hf:ID" (or a
            folder), "open_clip:ARCH/TAG" (the image encoder), "package.module:factory" (called without arguments);
            an `nn.Module`; a `LoadedModel`.
        weights: None for the source's pretrained ones, or those that a given module has; "random"; or a file,
            .safetensors or written by `torch.save`, of which only tensors are read.
        preprocess: instead of the source's; a torchvision or timm transform is read as a `Preprocess` if it can be.
        labels: instead of the source's: names, or a .txt (one a line) or .json file.
        output: what the model returns: "logits" (one class of K), "probabilities", "binary" (two classes, also of one
            output), "multi-label" (independent labels), "regression" (numbers), "embedding", or "auto"; instead of
            what the source says.

    A given module is not changed: weights from a file go into a copy of it. A model that is built here is in eval
    mode. The random state of torch stays as it was.

    Raises:
        ModelError: if there is no such model, its weights are not on this machine or do not fit, a file of weights
            would run code, or weights are NaN or infinite.
        MissingExtra: if the source is not installed.

    Example:
        >>> model = load_model(nn.Linear(2, 2), labels=["cat", "dog"])
        >>> model.name, model.weights, model.label(1)
        ('Linear', 'as given', 'dog')
    """
    if output is not None:
        check_kind(output)
    with torch.random.fork_rng(devices=[]):
        loaded, own = _resolved(spec, None if weights is None else os.fspath(weights))
    if own:
        loaded.module.eval()
        _check_finite(loaded)
    if preprocess is not None:
        read = preprocess if isinstance(preprocess, Preprocess) else Preprocess.read(preprocess)
        loaded = replace(loaded, preprocess=read or preprocess)
    if labels is not None:
        loaded = replace(loaded, labels=read_labels(labels))
    return loaded if output is None else replace(loaded, output=output)


def _resolved(spec: str | nn.Module | LoadedModel | None, weights: str | None) -> tuple[LoadedModel, bool]:
    """The model with its weights, and whether its module was made here."""
    if isinstance(spec, (nn.Module, LoadedModel)):
        return _given(spec, weights, "module")
    if spec is None or spec == "bundled":
        return _built(sources.bundled, "EfficientNet-Lite0", "bundled", weights), True
    if not isinstance(spec, str):
        raise ModelError(f"{sources.FORMS}; got {type(spec).__name__}")
    source, colon, name = spec.partition(":")
    if not colon or not name:
        raise sources.unknown(spec)
    if source in sources.SOURCES:
        build = sources.SOURCES[source]
        return _built(lambda pretrained: build(name, pretrained), name, spec, weights), True
    loaded, _ = _given(sources.from_factory(spec), weights, spec)
    return replace(loaded, source=spec), True  # a factory may give a LoadedModel of its own


def _built(build: Callable[[bool], sources.Built], name: str, source: str, weights: str | None) -> LoadedModel:
    state = None if weights in (None, RANDOM) else read_state(Path(str(weights)))
    built = build(weights is None)
    words = built.weights if weights is None else RANDOM
    if state is not None:
        words = Path(str(weights)).name
        load_state(built.module, state, str(weights), name)
    return LoadedModel(built.module, name, built.preprocess, built.labels, words, source, built.output)


def _given(model: nn.Module | LoadedModel, weights: str | None, source: str) -> tuple[LoadedModel, bool]:
    if isinstance(model, nn.Module):
        model = LoadedModel(model, type(model).__name__, source=source)
    if weights is None:
        return model, False
    if weights == RANDOM:
        raise ModelError(f"{model.name} comes with its weights; build it with random weights to explain those")
    state = read_state(Path(weights))
    module = copy.deepcopy(model.module)
    load_state(module, state, weights, model.name)
    return replace(model, module=module, weights=Path(weights).name), True


def _check_finite(loaded: LoadedModel) -> None:
    name = non_finite(loaded.module)
    if name is not None:
        raise ModelError(f"{loaded.name}: weights {name} hold NaN or infinite values ({loaded.weights})")
