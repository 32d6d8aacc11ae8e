import torch
from pytorch_grad_cam import GradCAM


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


class QueryTarget:
    def __init__(self, label):
        self.label = label

    def __call__(self, logits):
        return logits[logits.softmax(-1)[:, self.label].argmax(), self.label]


def explain(model, x, label):
    with GradCAM(model=Logits(model), target_layers=[model.model.input_projection]) as cam:
        return {"Grad-CAM": cam(input_tensor=x, targets=[QueryTarget(label)])}
