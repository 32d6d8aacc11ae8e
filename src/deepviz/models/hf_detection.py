"""Detectors of transformers that return a class and a box for each of their queries: DETR and its kind, and YOLOS."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from deepviz.models.adapted import Adapted, KnownModel
from deepviz.models.labels import hf_labels
from deepviz.objectives.candidates import Candidates

HOME, ENDING = "transformers.", "ForObjectDetection"
SHOWN = 0.5
"""Detections with lower scores are left out, as by `post_process_object_detection`."""


def adapted(module: nn.Module) -> KnownModel | None:
    """A detector of transformers as a module that returns `Candidates`; None for anything else."""
    if not any(cls.__module__.startswith(HOME) and cls.__name__.endswith(ENDING) for cls in type(module).__mro__):
        return None
    return KnownModel(Adapted(module, _queries, "detections"), None, hf_labels(module.config))


def is_detector(config: Any, known: Any) -> bool:
    """Whether a configuration is one of a detector.

    Args:
        config: of a model.
        known: the kinds that `AutoModelForObjectDetection` knows, by `model_type`.
    """
    said = getattr(config, "architectures", None) or ()
    return config.model_type in known and (not said or any(re.search(ENDING, one) for one in said))


def _queries(model: Any, x: Tensor) -> Candidates:
    """Its scores are a softmax with "no object" as the last class, or sigmoids, as many as there are labels."""
    output = model(pixel_values=x)
    logits, boxes = output.logits, output.pred_boxes
    softmax = logits.shape[-1] == model.config.num_labels + 1
    scores = logits.softmax(-1)[..., :-1] if softmax else logits.sigmoid()
    size = torch.tensor([x.shape[3], x.shape[2]], dtype=boxes.dtype, device=boxes.device)
    centre, sides = boxes[..., :2] * size, boxes[..., 2:] * size
    corners = torch.cat([centre - sides / 2, centre + sides / 2], -1)
    return Candidates(corners, logits[..., : scores.shape[-1]], scores, SHOWN, None)
