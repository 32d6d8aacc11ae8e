import torch
from pytorch_grad_cam import GradCAM, LayerCAM
from torchvision.ops import box_iou


class BoxTarget:
    def __init__(self, label, box):
        self.label, self.box = label, torch.tensor([box])

    def __call__(self, output):
        return output[box_iou(self.box, output[:, :4]).argmax(), 4 + self.label]


def explain(model, x, label, box):
    maps = {}
    for name, method in {"Grad-CAM": GradCAM, "Layer-CAM": LayerCAM}.items():
        with method(model=model, target_layers=[model.features]) as cam:
            maps[name] = cam(input_tensor=x, targets=[BoxTarget(label, box)])
    return maps
