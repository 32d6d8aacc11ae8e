"""Segmenters of libraries: what they return as class scores at each place, their preprocessing and labels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from deepviz.errors import MissingExtra, ModelError
from deepviz.models.adapted import Adapted, KnownModel
from deepviz.models.labels import hf_labels
from deepviz.models.preprocess import Preprocess
from deepviz.models.torchvision_shim import import_torchvision

VOC = 21
"""Classes of PASCAL VOC with the background, those of torchvision's weights."""
SHORTER_SIDE = 512
"""Of images that nothing says the size of."""


def known_segmenter(module: nn.Module) -> KnownModel | None:
    """A segmenter of torchvision, transformers or segmentation-models-pytorch, with what it says of itself; None for
    anything else."""
    home = type(module).__module__.partition(".")[0]
    names = {cls.__name__ for cls in type(module).__mro__}
    if home == "torchvision" and names & {"_SimpleSegmentationModel", "LRASPP"}:
        return _torchvision(module)
    if home == "transformers":
        return _transformers(module)
    if home == "segmentation_models_pytorch" and "SegmentationModel" in names:
        return smp(module)
    return None


def _torchvision(module: nn.Module) -> KnownModel:
    last = [one for name, one in module.named_modules() if isinstance(one, nn.Conv2d) and "aux" not in name][-1]
    if last.out_channels != VOC:
        return KnownModel(module)
    segmentation = import_torchvision().models.segmentation
    labels = tuple(segmentation.FCN_ResNet50_Weights.DEFAULT.meta["categories"])
    note = f"labels are those of PASCAL VOC, as it has {VOC} classes; labels= gives others"
    return KnownModel(module, None, labels, (note,))


def _transformers(module: nn.Module) -> KnownModel | None:
    name = type(module).__name__
    if name.endswith("ForSemanticSegmentation"):
        return KnownModel(module, None, hf_labels(module.config))
    if name.endswith(("ForUniversalSegmentation", "MaskFormerForInstanceSegmentation")):
        return KnownModel(by_queries(module), None, hf_labels(module.config))
    if name == "DetrForSegmentation":
        return KnownModel(Adapted(module, _detr, "maps"), None, hf_labels(module.config))
    return None


def by_queries(module: nn.Module, task: Tensor | None = None) -> Adapted:
    """A segmenter that predicts a class and a mask for each of its queries, as its scores at each place.

    Args:
        module: MaskFormer, Mask2Former, OneFormer or EoMT of transformers.
        task: the tokens (1, L) of OneFormer's task; without them they are given as `extra=`.
    """

    def run(model: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if task is not None and not args and "task_inputs" not in kwargs:
            kwargs["task_inputs"] = task.to(x.device).expand(len(x), -1)
        output = model(x, *args, **kwargs)
        return semantic(output.class_queries_logits, output.masks_queries_logits)

    return Adapted(module, run, "maps")


def _detr(model: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    output = model(x, *args, **kwargs)
    return semantic(output.logits, output.pred_masks)


def semantic(classes: Tensor, masks: Tensor) -> Tensor:
    """S_c = sum_q softmax(z_q)_c sigmoid(m_q), of queries q with class logits z, the last of them "no object", and
    mask logits m; as transformers' `post_process_semantic_segmentation` computes it.

    Example:
        >>> semantic(torch.zeros(2, 100, 4), torch.zeros(2, 100, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """
    return torch.einsum("nqc,nqhw->nchw", classes.softmax(-1)[..., :-1], masks.sigmoid())


def oneformer_task(tokenizer: Callable[..., Any], length: int) -> Tensor:
    """The tokens of the task "semantic", (1, length), as OneFormer's processor makes them.

    Raises:
        ModelError: if the tokenizer has no words, as one that is made without its files.
    """
    text = "the task is semantic"
    tokens = tokenizer([text], padding="max_length", max_length=length, truncation=True)
    found = torch.tensor(tokens["input_ids"]) * torch.tensor(tokens["attention_mask"])
    if len(found.unique()) < len(text.split()):
        raise ModelError("the tokenizer of OneFormer's tasks has no words: are its files beside the model?")
    return found


def smp(module: Any, settings: Callable[[str], Any] | None = None) -> KnownModel:
    """A segmenter of segmentation-models-pytorch.

    Args:
        module: the segmenter.
        settings: from the name of an encoder to the preprocessing of its pretrained weights; None assumes ImageNet's.
    """
    config = getattr(module, "config", None) or {}
    encoder = config.get("encoder_name")
    if config.get("in_channels", 3) != 3 or encoder is None:
        return KnownModel(module)
    found: Any = None
    if settings is not None:
        with suppress(Exception):  # it may be on the hub alone, or of an encoder that was never trained
            found = settings(encoder)
    statistics: dict[str, Any] = {}
    if found is not None and found["input_space"] == "RGB" and tuple(found["input_range"]) == (0, 1):
        statistics = {"mean": found["mean"], "std": found["std"]}
    whose = f"those of {encoder}" if statistics else "those of ImageNet, as most encoders take them"
    multiple = int(getattr(module.encoder, "output_stride", 32))
    preprocess = Preprocess(SHORTER_SIDE, crop=None, fit="whole", multiple=max(multiple, 32), **statistics)
    note = (
        f"images are resized to {SHORTER_SIDE} pixels on the shorter side, mean and standard deviation are {whose}; "
        "preprocess= gives what it was trained with"
    )
    return KnownModel(module, preprocess, None, (note,))


def import_smp() -> Any:
    """The module segmentation_models_pytorch.

    Raises:
        MissingExtra: if it is not installed.
    """
    import_torchvision()
    try:
        import segmentation_models_pytorch
    except ImportError:
        raise MissingExtra("segmentation-models-pytorch is not installed: pip install 'deepviz[smp]'") from None
    return segmentation_models_pytorch
