"""Which model, with which weights, and where it runs: the options that commands share."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from cyclopts import Parameter

from deepviz.cli import UsageError
from deepviz.models import LoadedModel, load_model
from deepviz.probe.outputs import Kind

Model = Annotated[
    str | None,
    Parameter(help="bundled, timm:NAME, torchvision:NAME, hf:ID, open_clip:ARCH/TAG or package.module:factory."),
]
Weights = Annotated[str | None, Parameter(help="A .safetensors, .pt or .pth file, or 'random'.")]
Labels = Annotated[str | None, Parameter(help="A .txt (one label a line) or .json file of class names.")]
OutputKind = Annotated[
    Kind,
    Parameter(help="What the model returns: one class of K (logits), two (binary), independent labels, numbers ..."),
]
Device = Annotated[
    Literal["cpu", "cuda", "mps"] | None, Parameter(help="Device to run the model on; by default where it was loaded.")
]


def check_device(device: str | None) -> None:
    """See that the device is there, before anything is loaded for it.

    Raises:
        UsageError: if it is not.
    """
    there = torch.backends.mps.is_available() if device == "mps" else torch.cuda.is_available()
    if device in ("cuda", "mps") and not there:
        raise UsageError(f"--device {device}: torch {torch.__version__} finds none on this machine; use --device cpu")


def loaded_model(
    model: str | None,
    weights: str | None = None,
    labels: str | None = None,
    device: str | None = None,
    output_kind: Kind = "auto",
) -> LoadedModel:
    """The model that the options ask for, on its device.

    Raises:
        ModelError: as `load_model` does.
    """
    loaded = load_model(model, weights=weights, labels=labels, output=None if output_kind == "auto" else output_kind)
    return loaded if device is None else replace(loaded, module=loaded.module.to(device))
