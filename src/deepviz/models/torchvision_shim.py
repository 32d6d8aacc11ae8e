"""The one place where DeepViz imports torchvision and timm.

torchvision from PyPI is built against a CUDA torch. Beside a CPU-only torch its compiled operators do not load, and
`import torchvision` ends in "operator torchvision::nms does not exist", although everything that DeepViz needs of
it (models, weights, transforms) is plain Python. Declaring the two operators' schemas is enough for the import;
calling them (non-maximum suppression, in detection models) stays an error. A torchvision that works is not touched.
"""

from __future__ import annotations

import importlib
import sys
from threading import RLock
from typing import Any

import torch

from deepviz.errors import MissingExtra

_PIP = "pip install 'deepviz[timm]'"
_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_lock = RLock()
_declared: list[torch.library.Library] = []  # a schema lives as long as the object that declared it


def import_torchvision() -> Any:
    """The module torchvision.

    Raises:
        MissingExtra: if it is not installed, or cannot be imported beside this torch.
    """
    with _lock:
        try:
            return importlib.import_module("torchvision")
        except ImportError:
            raise MissingExtra(f"torchvision is not installed: {_PIP}") from None
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise _unfit(error) from error
        _declare_operators()
        try:
            return importlib.import_module("torchvision")
        except Exception as error:
            raise _unfit(error) from error


def import_timm() -> Any:
    """The module timm, with torchvision behind it.

    Raises:
        MissingExtra: if either is not installed.
    """
    import_torchvision()
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise MissingExtra(f"timm is not installed: {_PIP}") from None


def _declare_operators() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # the halves that the failed import left behind
    if not _declared:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in _OPERATORS:
            library.define(operator + _SCHEMA)
        _declared.append(library)


def _unfit(error: Exception) -> MissingExtra:
    reason = str(error).splitlines()[0]
    return MissingExtra(f"torchvision does not fit torch {torch.__version__} ({reason}): {_PIP}")
