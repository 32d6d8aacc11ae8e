"""`--device`: where the model runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from cyclopts import Parameter

from deepviz.cli import UsageError
from deepviz.models import LoadedModel

Device = Annotated[
    Literal["cpu", "cuda", "mps"] | None, Parameter(help="Where the model runs; where it was loaded otherwise.")
]


def check_device(device: str | None) -> None:
    """See that the device is there, before anything is loaded for it.

    Raises:
        UsageError: if it is not.
    """
    there = torch.backends.mps.is_available() if device == "mps" else torch.cuda.is_available()
    if device in ("cuda", "mps") and not there:
        raise UsageError(f"--device {device}: torch {torch.__version__} finds none on this machine; use --device cpu")


def moved(loaded: LoadedModel, device: str | None) -> LoadedModel:
    """The model on the device."""
    return loaded if device is None else replace(loaded, module=loaded.module.to(device))
