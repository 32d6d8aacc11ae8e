import torch
from captum.attr import IntegratedGradients, LayerGradCam
from torchvision.ops import box_iou


def explain(model, x, label, box):
    def score(x):
        scores = []
        for found in model(x):
            same = found["labels"] == label
            overlap = box_iou(torch.tensor([box]), found["boxes"][same])[0]
            scores.append((found["scores"][same] * (overlap == overlap.max())).sum() if len(overlap) else x.sum() * 0)
        return torch.stack(scores)

    return {
        "Grad-CAM": LayerGradCam(score, model.features).attribute(x),
        "Integrated gradients": IntegratedGradients(score).attribute(x),
    }
