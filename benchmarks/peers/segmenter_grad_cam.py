import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget


class Scores(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)["out"]


def explain(model, x, label):
    scores = Scores(model)
    mask = (scores(x)[0].argmax(0) == label).float().numpy()
    with GradCAM(model=scores, target_layers=[model.features]) as cam:
        return {"Grad-CAM": cam(input_tensor=x, targets=[SemanticSegmentationTarget(label, mask)])}
