"""Detectors of torchvision, run part by part on prepared images, up to the scores of all boxes.

Their own `forward` resizes images itself, and returns what is left of the boxes without a graph to their logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepviz.models.adapted import Adapted, KnownModel
from deepviz.models.preprocess import Preprocess
from deepviz.models.torchvision_shim import import_torchvision
from deepviz.objectives.candidates import Candidates

HOME = "torchvision.models.detection."
COCO = 91
"""Classes of COCO, as torchvision counts them: with the background, and ten that no image shows."""
SHOWN = 0.5
"""Detections with lower scores are left out. The thresholds of these models, such as 0.05, are for their evaluation."""
_SMALLEST = 1e-2
"""Sides of boxes, in pixels, of which Faster R-CNN takes no notice if they are smaller."""


def adapted(module: nn.Module) -> KnownModel | None:
    """A detector of torchvision as a module that returns `Candidates`; None for anything else."""
    kinds = [cls.__name__ for cls in type(module).__mro__ if cls.__module__.startswith(HOME)]
    run = next((_RUNS[kind] for kind in kinds if kind in _RUNS), None)
    if run is None:
        return None
    found = KnownModel(Adapted(module, run, "detections"), preprocess(module))
    if _classes(module) != COCO:
        return found
    note = f"labels are those of COCO, as it has {COCO} classes; labels= gives others"
    return replace(found, labels=coco_labels(), notes=(note,))


def coco_labels() -> tuple[str, ...]:
    """The 91 classes of COCO."""
    detection = import_torchvision().models.detection
    return tuple(detection.FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"])


def preprocess(module: nn.Module) -> Preprocess:
    """What a detector's own transform does to an image."""
    transform: Any = module.transform
    known = {"crop": None, "mean": transform.image_mean, "std": transform.image_std, "antialias": False}
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
        return Preprocess(height if height == width else (height, width), **known)
    multiple = transform.size_divisible
    return Preprocess(
        transform.min_size[-1], **known, fit="whole", longest=transform.max_size, multiple=multiple, pad="mean"
    )


def anchors_of(module: Any) -> int:
    """How many boxes of each place have class logits of their own in one layer."""
    return getattr(getattr(getattr(module, "head", None), "classification_head", None), "num_anchors", 1)


def _classes(module: Any) -> int:
    if hasattr(module, "roi_heads"):
        scores = getattr(module.roi_heads.box_predictor, "cls_score", None)
        return getattr(scores, "out_features", 0)
    head = module.head.classification_head
    return getattr(head, "num_classes", 0) or getattr(head, "num_columns", 0)


def _faster_rcnn(model: Any, x: Tensor) -> Candidates:
    """Of each proposal its class logits, and a box for each class."""
    features, images, heads = _features(model, x), _images(model, x), model.roi_heads
    proposals, _ = model.rpn(images, features)
    pooled = heads.box_roi_pool(features, proposals, images.image_sizes)
    logits, regression = heads.box_predictor(heads.box_head(pooled))
    many = [len(one) for one in proposals]
    boxes = _rows(heads.box_coder.decode(regression, proposals).split(many))
    boxes = _clipped(boxes, images.image_sizes)
    scores = _rows(_of_objects(logits).split(many))
    scores = torch.where(((boxes[..., 2:] - boxes[..., :2]) >= _SMALLEST).all(-1), scores, 0)
    return Candidates(boxes, _rows(logits.split(many)), scores, max(SHOWN, heads.score_thresh), heads.nms_thresh)


def _retinanet(model: Any, x: Tensor) -> Candidates:
    outputs, anchors, images = _heads(model, x)
    boxes = _clipped(_decoded(model, outputs["bbox_regression"], anchors), images.image_sizes)
    logits = outputs["cls_logits"]
    return Candidates(boxes, logits, logits.sigmoid(), max(SHOWN, model.score_thresh), model.nms_thresh)


def _fcos(model: Any, x: Tensor) -> Candidates:
    """Its scores are sqrt(sigmoid(class) sigmoid(centreness))."""
    outputs, anchors, images = _heads(model, x)
    boxes = _clipped(model.box_coder.decode(outputs["bbox_regression"], anchors), images.image_sizes)
    logits = outputs["cls_logits"]
    scores = (logits.sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()
    return Candidates(boxes, logits, scores, max(SHOWN, model.score_thresh), model.nms_thresh)


def _ssd(model: Any, x: Tensor) -> Candidates:
    outputs, anchors, images = _heads(model, x)
    boxes = _clipped(_decoded(model, outputs["bbox_regression"], anchors), images.image_sizes)
    logits = outputs["cls_logits"]
    return Candidates(boxes, logits, _of_objects(logits), max(SHOWN, model.score_thresh), model.nms_thresh)


_RUNS: Mapping[str, Callable[[Any, Tensor], Candidates]] = {
    "GeneralizedRCNN": _faster_rcnn,
    "RetinaNet": _retinanet,
    "FCOS": _fcos,
    "SSD": _ssd,
}
"""By the name of a class of torchvision; Faster, Mask and Keypoint R-CNN are a GeneralizedRCNN."""


def _features(model: Any, x: Tensor) -> dict[str, Tensor]:
    found = model.backbone(x)
    return {"0": found} if isinstance(found, Tensor) else found


def _heads(model: Any, x: Tensor) -> tuple[dict[str, Tensor], Tensor, Any]:
    """What the heads return for all anchors, the anchors (A, 4), and the images."""
    maps, images = list(_features(model, x).values()), _images(model, x)
    outputs = model.head(maps)
    return outputs, model.anchor_generator(images, maps)[0], images


def _images(model: Any, x: Tensor) -> Any:
    """The images with their sizes before they were padded, to which boxes are clipped.

    Padding is exactly 0, and less than the number of which the sides are multiples.
    """
    image_list = import_torchvision().models.detection.image_list.ImageList
    used = (x != 0).any(1)
    heights, widths = (_used(used.any(axis), model.transform.size_divisible) for axis in (2, 1))
    return image_list(x, list(zip(heights, widths, strict=True)))


def _used(used: Tensor, multiple: int) -> list[int]:
    """Of each row of (n, L), how much is used, if less than `multiple` at its end is not; else all of it."""
    length = used.shape[1]
    unused = used.flip(1).long().argmax(1)  # 0 as well where nothing is used
    return [length - (rest if rest < multiple else 0) for rest in unused.tolist()]


def _decoded(model: Any, regression: Tensor, anchors: Tensor) -> Tensor:
    n, many, _ = regression.shape
    boxes: Tensor = model.box_coder.decode_single(regression.flatten(0, 1), anchors.repeat(n, 1))
    return boxes.view(n, many, 4)


def _clipped(boxes: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Boxes (n, ..., 4) cut to images of these sizes, (height, width)."""
    limits = torch.tensor([(w, h, w, h) for h, w in sizes], dtype=boxes.dtype, device=boxes.device)
    return torch.minimum(boxes.clamp_min(0), limits.view(-1, *(1,) * (boxes.ndim - 2), 4))


def _of_objects(logits: Tensor) -> Tensor:
    """The softmax, in which the background, class 0, is never detected."""
    scores = logits.softmax(-1)
    return torch.cat([torch.zeros_like(scores[..., :1]), scores[..., 1:]], -1)


def _rows(parts: Sequence[Tensor]) -> Tensor:
    """Tensors (A_i, ...) as (n, A, ...), filled up with 0."""
    most = max(1, *(len(part) for part in parts))
    return torch.stack([F.pad(part, (*(0, 0) * (part.ndim - 1), 0, most - len(part))) for part in parts])
