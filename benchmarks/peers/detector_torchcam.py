import torch
from torchcam.methods import GradCAM, LayerCAM
from torchvision.ops import box_iou


def explain(model, x, label, box):
    def target(output):
        return output[box_iou(torch.tensor([box]), output[:, :4]).argmax(), 4 + label]

    maps = {}
    for name, method in {"Grad-CAM": GradCAM, "Layer-CAM": LayerCAM}.items():
        with method(model, "features") as extractor:
            maps[name] = extractor(scores=model(x), targets=target)[0]
    return maps
