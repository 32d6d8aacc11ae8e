import torch
import torch.nn.functional as F
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget


class ImageLogits(torch.nn.Module):
    def __init__(self, model, texts):
        super().__init__()
        self.model, self.texts = model, texts

    def forward(self, x):
        texts = F.normalize(self.model.encode_text(self.texts), dim=1)
        return self.model.logit_scale.exp() * F.normalize(self.model.encode_image(x), dim=1) @ texts.T


def explain(model, x, text):
    with GradCAM(model=ImageLogits(model, [text]), target_layers=[model.visual.features]) as cam:
        return {"Grad-CAM": cam(input_tensor=x, targets=[ClassifierOutputTarget(0)])}
