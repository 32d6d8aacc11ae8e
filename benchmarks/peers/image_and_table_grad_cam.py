import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget


class OfImage(torch.nn.Module):
    def __init__(self, model, table):
        super().__init__()
        self.model, self.table = model, table

    def forward(self, x):
        return self.model(x, self.table)


def explain(model, x, table, target):
    with GradCAM(model=OfImage(model, table), target_layers=[model.features]) as cam:
        return {"Grad-CAM": cam(input_tensor=x, targets=[ClassifierOutputTarget(target)] * len(x))}
