import torch.nn.functional as F
from torchcam.methods import GradCAM


def explain(model, x, text):
    embedding = F.normalize(model.encode_text([text]), dim=1).detach()
    with GradCAM(model, "visual.features") as extractor:
        logits = model.logit_scale.exp() * F.normalize(model.encode_image(x), dim=1) @ embedding.T
        return {"Grad-CAM": extractor(0, logits)[0]}
