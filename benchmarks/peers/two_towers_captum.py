import torch.nn.functional as F
from captum.attr import IntegratedGradients, LayerGradCam


def explain(model, x, text):
    embedding = F.normalize(model.encode_text([text]), dim=1).detach()

    def score(x):
        return (model.logit_scale.exp() * F.normalize(model.encode_image(x), dim=1) @ embedding.T)[:, 0]

    return {
        "Grad-CAM": LayerGradCam(score, model.visual.features).attribute(x),
        "Integrated gradients": IntegratedGradients(score).attribute(x),
    }
