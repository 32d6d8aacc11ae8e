"""Models of ultralytics: YOLOv8 and newer, for detection, segmentation, poses and classification."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepviz.errors import MissingExtra, ModelError
from deepviz.models.adapted import Adapted, KnownModel
from deepviz.models.preprocess import Preprocess
from deepviz.models.torchvision_shim import import_torchvision
from deepviz.objectives.candidates import Candidates

TASKS = {
    "detect": "DetectionModel",
    "segment": "SegmentationModel",
    "pose": "PoseModel",
    "classify": "ClassificationModel",
}
"""The classes of ultralytics by the task that a description is for."""
SHOWN, OVERLAP = 0.25, 0.7
"""Below which score, and above which overlap, `predict` leaves boxes out."""
GREY = 114 / 255
_PLAIN: dict[str, Any] = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def adapted(module: nn.Module) -> KnownModel | None:
    """A model of ultralytics, or the `YOLO` that holds it; None for anything else.

    Raises:
        ModelError: for a `YOLO` of an exported file, or one without the class scores of all boxes.
    """
    names = {cls.__name__ for cls in type(module).__mro__ if cls.__module__.startswith("ultralytics.")}
    if "Model" in names:
        inner = module.model
        if not isinstance(inner, nn.Module):
            raise ModelError(f"{inner} is an exported model: give the one that it was made of, YOLO('best.pt')")
        return adapted(inner)
    if "ClassificationModel" in names:
        return KnownModel(Adapted(module, _class_logits, "logits"), _cropped(module), _labels(module))
    if "DetectionModel" not in names or not hasattr(_head(module), "reg_max"):
        return None
    return KnownModel(Adapted(module, _boxes, "detections"), _letterbox(module), _labels(module))


def build(name: str, num_classes: int | None) -> nn.Module:
    """The model of a description, "yolo11n.yaml", with random weights.

    Raises:
        ModelError: for a file of weights, an unknown description, or one of another task.
        MissingExtra: if ultralytics is not installed.
    """
    if not name.endswith((".yaml", ".yml")):
        raise ModelError(
            f"'ultralytics:{name}' is no description such as 'ultralytics:yolo11n.yaml'; a .pt of ultralytics holds "
            "code, which is not run here: give the model in Python, deepviz.load_model(YOLO('best.pt')), or save its "
            "tensors, torch.save(YOLO('best.pt').model.state_dict(), 'tensors.pt'), as weights of its description"
        )
    tasks = _import("ultralytics.nn.tasks")
    try:
        described = tasks.yaml_model_load(name)
        kind = TASKS.get(tasks.guess_model_task(described))
    except Exception as error:
        raise ModelError(f"ultralytics has no description {name!r}: {str(error).splitlines()[0]}") from error
    if kind is None:
        raise ModelError(f"'ultralytics:{name}' is for none of {', '.join(TASKS)}")
    made: nn.Module = getattr(tasks, kind)(described, ch=3, nc=num_classes, verbose=False)
    return made


def _import(name: str) -> Any:
    if "ultralytics" not in sys.modules:  # which may install packages and ask for updates, unless it is told not to
        os.environ.setdefault("YOLO_AUTOINSTALL", "false")
        os.environ.setdefault("YOLO_OFFLINE", "true")
    try:
        import_torchvision()
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra("ultralytics is not installed: pip install ultralytics") from None


def _head(module: Any) -> Any:
    return module.model[-1]


def _letterbox(module: Any) -> Preprocess:
    stride = max(32, int(max(module.stride)))
    return Preprocess(
        _side(module, 640), crop=None, **_PLAIN, fit="letterbox", multiple=stride, pad=GREY, antialias=False
    )


def _cropped(module: Any) -> Preprocess:
    return Preprocess(_side(module, 224), crop=1.0, **_PLAIN)


def _side(module: Any, usual: int) -> int:
    """The side that a trained model says it was trained with."""
    said = getattr(module, "args", None)
    said = said.get("imgsz") if isinstance(said, Mapping) else getattr(said, "imgsz", None)
    return said if isinstance(said, int) else usual


def _labels(module: Any) -> tuple[str, ...] | None:
    """Its names; those of COCO, or ImageNet, where it has its classes and no names but numbers."""
    names = getattr(module, "names", None) or {}
    if all(str(index) == str(name) for index, name in names.items()):
        data = {80: "coco", 1000: "ImageNet"}.get(len(names))
        if data is None:
            return None
        utils = _import("ultralytics.utils")
        names = utils.YAML.load(utils.ROOT / "cfg" / "datasets" / f"{data}.yaml")["names"]
    return tuple(str(names[index]) for index in range(len(names)))


def _class_logits(model: Any, x: Tensor) -> Tensor:
    output = model(x)
    logits: Tensor = output[1] if isinstance(output, tuple) else output
    return logits


def _boxes(model: Any, x: Tensor) -> Candidates:
    """The class logits and boxes of all cells, before a sigmoid and before boxes that overlap are left out."""
    head, output = _head(model), model(x)
    found = output[-1] if isinstance(output, tuple) else output
    if not isinstance(found, Mapping):
        raise ModelError("this version of ultralytics does not return the logits: pip install 'ultralytics>=8.4'")
    if "one2one" in found:
        found = found["one2one" if head.end2end else "one2many"]
    logits = found["scores"].transpose(1, 2)
    boxes = head._get_decode_boxes(found)[:, :4].transpose(1, 2)
    if not (head.end2end or head.xyxy):
        centre, sides = boxes[..., :2], boxes[..., 2:]
        boxes = torch.cat([centre - sides / 2, centre + sides / 2], -1)
    return Candidates(boxes, logits, logits.sigmoid(), SHOWN, None if head.end2end else OVERLAP)
