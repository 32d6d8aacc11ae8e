import torch
from torchcam.methods import GradCAM, LayerCAM
from torchvision.ops import box_iou


def explain(model, x, label, box):
    def target(found):
        same = found["labels"] == label
        overlap = box_iou(torch.tensor([box]), found["boxes"][same])[0]
        return found["scores"][same][overlap.argmax()]

    maps = {}
    for name, method in {"Grad-CAM": GradCAM, "Layer-CAM": LayerCAM}.items():
        with method(model, model.features) as extractor:
            maps[name] = extractor(scores=model(x), targets=target)[0]
    return maps
