"""`load_model`: a name, a path or a module -> a `LoadedModel`."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepviz.diagnostics import warn
from deepviz.errors import ImageError, ModelError
from deepviz.models import sources
from deepviz.models.adapted import Adapted
from deepviz.models.labels import read_labels
from deepviz.models.loaded import RANDOM, LoadedModel
from deepviz.models.onnx_file import OnnxModel
from deepviz.models.preprocess import Preprocess
from deepviz.models.preprocessing import Given, preprocessing
from deepviz.models.weights import StoredWeights, non_finite, read_weights
from deepviz.probe.black_box import BlackBox, as_module, black_box_of
from deepviz.probe.borrow import original
from deepviz.probe.outputs import Kind, check_kind, stated_kind


def load_model(
    spec: str | nn.Module | LoadedModel | Callable[..., Any] | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    preprocess: Given | None = None,
    labels: str | Path | Iterable[str] | None = None,
    output: Kind | None = None,
    num_classes: int | None = None,
    name: str | None = None,
) -> LoadedModel:
    """Load a model, or add preprocessing, labels and weights to one.

    Args:
        spec: None or "bundled" for the bundled EfficientNet-Lite0; "timm:NAME", "torchvision:NAME", "hf:ID" (or a
            folder), "smp:ARCH/ENCODER", "open_clip:ARCH/TAG" (the image encoder), "ultralytics:NAME.yaml",
            "onnx:FILE", "package.module:factory" (a function that returns a module or a `LoadedModel`, called without
            arguments, or with `num_classes=`); an `nn.Module`, of which detectors and segmenters of these libraries are
            recognised; a `torch.export.ExportedProgram`; a callable from a batch to scores, which becomes a `BlackBox`;
            a `LoadedModel`.
        weights: None for the source's pretrained ones, or those that a given module has; "random"; or a file,
            .safetensors or written by `torch.save`, of which only tensors are read: a state dict, or a checkpoint that
            holds one (Lightning's, timm's). Prefixes such as "model." are understood.
        preprocess: instead of the source's: a `Preprocess`; "imagenet", "inception", "clip" or "0..255"; a .json file
            with the fields of a `Preprocess`, or a preprocessor_config.json; a transform of torchvision or timm, or an
            image processor of transformers, which are read as a `Preprocess` if they can be; or any callable from a
            PIL image to a tensor. What was read is compared with the original on two bundled images. Or, for files
            that are no pictures, a `VolumePreprocess`, `BandPreprocess` or `VideoPreprocess`.
        labels: instead of the source's: names, or a .txt (one a line) or .json file.
        output: what the model returns: "logits" (one class of K), "probabilities", "binary" (two classes, also of one
            output), "multi-label" (independent labels), "regression" (numbers), "embedding", or "auto"; instead of
            what the source says.
        num_classes: of a model that is built here, by its source or a factory that takes `num_classes`. By default
            read from the shapes in the file of weights.
        name: what to call the model in captions, reports and the page.

    What was read or assumed is in the `notes` of the result. A given module is not changed: weights from a file go into
    a copy of it. A model that is built here is in eval mode. The random state of torch stays as it was.

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
    if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 1):
        raise ModelError(f"num_classes must be a number of classes, at least 1, got {num_classes!r}")
    with torch.random.fork_rng(devices=[]):
        loaded, own = _resolved(spec, None if weights is None else os.fspath(weights), num_classes)
    if own:
        loaded.module.eval()
        _check_finite(loaded)
    loaded = _with_preprocess(loaded, preprocess, own)
    if labels is not None:
        loaded = replace(loaded, labels=read_labels(labels))
    if name is not None:
        loaded = replace(loaded, name=name)
    if output is not None:
        loaded = replace(loaded, output=output)
    known = dict(spec.arguments) if isinstance(spec, LoadedModel) else {}
    said: dict[str, Any] = {"weights": weights, "preprocess": preprocess, "labels": labels, "output": output}
    said |= {"num_classes": num_classes, "name": name}
    arguments = known | _arguments(loaded, said)
    return loaded if arguments == loaded.arguments else replace(loaded, arguments=arguments)


def _arguments(loaded: LoadedModel, said: dict[str, Any]) -> dict[str, Any]:
    """What was given, as it can be written in code."""
    found = {name: os.fspath(one) if isinstance(one, os.PathLike) else one for name, one in said.items()}
    if found["labels"] is not None and not isinstance(found["labels"], str):
        found["labels"] = loaded.labels  # an iterable is read once
    if not isinstance(found["preprocess"], (str, type(None))) and isinstance(loaded.preprocess, Preprocess):
        found["preprocess"] = loaded.preprocess
    return {name: one for name, one in found.items() if one is not None}


def _resolved(
    spec: str | nn.Module | LoadedModel | Callable[..., Any] | None, weights: str | None, num_classes: int | None
) -> tuple[LoadedModel, bool]:
    """The model with its weights, and whether its module was made here."""
    spec = as_module(spec)
    if isinstance(spec, (nn.Module, LoadedModel)):
        if num_classes is not None:
            raise ModelError("num_classes is for a model that is built here; a module has its number of classes")
        return _given(spec, weights, "module")
    if spec is None or spec == "bundled":
        return _built(sources.bundled, "EfficientNet-Lite0", "bundled", weights, num_classes), True
    if isinstance(spec, type):
        raise ModelError(f"a model is an instance, got the class {spec.__name__}: give {spec.__name__}(...)")
    if not isinstance(spec, str):
        raise ModelError(f"{sources.FORMS}; got {type(spec).__name__}")
    source, colon, name = spec.partition(":")
    if not colon or not name:
        raise sources.unknown(spec)
    if source in sources.SOURCES:
        return _built(sources.SOURCES[source], name, spec, weights, num_classes), True
    return _from_factory(spec, weights, num_classes), True


def _built(build: sources.Build, name: str, source: str, weights: str | None, num_classes: int | None) -> LoadedModel:
    if weights is None and num_classes is not None:
        raise ModelError(
            f"num_classes={num_classes} is for weights of your own: give weights='file.safetensors', or 'random'; the "
            f"pretrained ones of {name} are for its own classes"
        )
    stored = None if weights in (None, RANDOM) else read_weights(str(weights))
    built = build(name, weights is None, num_classes)
    notes: tuple[str, ...] = ()
    if stored is not None:
        found = None if num_classes is not None else stored.outputs_for(built.module)
        if found is not None:
            classes = found[0] // built.per_class
            built, notes = build(name, False, classes), (_classes_read(stored, classes, found[1]),)
        notes += stored.load_into(built.module, name)
    words = built.weights if weights is None else RANDOM if stored is None else stored.name
    notes += built.notes
    return LoadedModel(
        built.module,
        built.name or name,
        built.preprocess,
        built.labels,
        words,
        source,
        built.output,
        notes,
        built.texts,
    )


def _from_factory(spec: str, weights: str | None, num_classes: int | None) -> LoadedModel:
    made = sources.from_factory(spec, num_classes)
    notes: tuple[str, ...] = ()
    if weights not in (None, RANDOM) and num_classes is None and sources.takes_num_classes(sources.factory_of(spec)):
        stored = read_weights(str(weights))
        found = stored.outputs_for(made.module if isinstance(made, LoadedModel) else made)
        if found is not None:
            made, notes = sources.from_factory(spec, found[0]), (_classes_read(stored, *found),)
    loaded, _ = _given(made, weights, spec, f"def {spec.rpartition(':')[2]}(num_classes) is called with {{}}")
    return replace(loaded, source=spec, notes=(*notes, *loaded.notes))  # a factory may give a LoadedModel of its own


def _classes_read(stored: StoredWeights, outputs: int, name: str) -> str:
    return f"num_classes={outputs} was read from {stored.name}, by the shape of {name}"


def _given(
    model: nn.Module | LoadedModel, weights: str | None, source: str, for_classes: str = "build it with {} classes"
) -> tuple[LoadedModel, bool]:
    if isinstance(model, nn.Module):
        model = _of_module(model, source)
    if weights is None:
        return model, False
    function = black_box_of(model.module)
    if function is not None:
        raise ModelError(
            f"{model.name} is {function.kind}, whose weights are out of reach: leave out weights={weights!r}"
        )
    if weights == RANDOM:
        raise ModelError(f"{model.name} comes with its weights; build it with random weights to explain those")
    stored = read_weights(weights)
    module = copy.deepcopy(model.module)
    notes = stored.load_into(module, model.name, for_classes)
    return replace(model, module=module, weights=stored.name, notes=(*model.notes, *notes)), True


def _of_module(module: nn.Module, source: str) -> LoadedModel:
    """A module with what it says of itself."""
    if isinstance(module, Adapted):
        inner = module.deepviz_model
        name = inner.name if isinstance(inner, BlackBox) else type(inner).__name__
        return LoadedModel(module, name, source=source)
    inner = original(module)
    if isinstance(inner, BlackBox):
        return LoadedModel(module, inner.name, source=source)
    found = sources.known_model(inner)
    if found is None:
        return LoadedModel(module, type(module).__name__, source=source)
    # one that is read as it is stays wrapped, compiled for example
    adapted = isinstance(found.module, Adapted)
    name = type(found.module.deepviz_model if isinstance(found.module, Adapted) else inner).__name__
    used = found.module if adapted else module
    kind = stated_kind(found.module)
    return LoadedModel(used, name, found.preprocess, found.labels, source=source, output=kind, notes=found.notes)


def _with_preprocess(loaded: LoadedModel, given: Given | None, own: bool) -> LoadedModel:
    """The model with the preprocessing that is given, that of its source, or the one that its module speaks of."""
    notes: tuple[str, ...] = ()
    module = original(loaded.module)
    if isinstance(module, OnnxModel):  # what is assumed of an image holds as long as no preprocessing is given
        kept = tuple(note for note in loaded.notes if note not in module.graph.assumed)
        loaded = replace(loaded, notes=(*kept, *(module.graph.assumed if given is None else ())))
    source: Given | None = loaded.preprocess if own or loaded.preprocess is None else None
    if given is None and source is None and loaded.preprocess is None:
        found = sources.preprocess_of(original(loaded.module))
        if found is not None:
            source, where = found
            notes = (f"preprocessing is that of the module's {where}",)
    if given is None and source is None:
        return loaded
    try:
        made, remarks = preprocessing(source if given is None else given)  # type: ignore[arg-type]
    except ImageError as error:
        if given is not None:
            raise
        return replace(loaded, preprocess=None, notes=(*loaded.notes, str(error)))
    for remark in remarks:
        warn(remark)
    return replace(loaded, preprocess=made, notes=tuple(dict.fromkeys((*loaded.notes, *notes, *remarks))))


def _check_finite(loaded: LoadedModel) -> None:
    name = non_finite(loaded.module)
    if name is not None:
        raise ModelError(f"{loaded.name}: weights {name} hold NaN or infinite values ({loaded.weights})")
