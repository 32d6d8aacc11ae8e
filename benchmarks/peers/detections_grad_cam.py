import numpy as np
from pytorch_grad_cam import GradCAM, LayerCAM
from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget


def explain(model, x, label, box):
    targets = [FasterRCNNBoxScoreTarget([label], [np.array(box)])]
    maps = {}
    for name, method in {"Grad-CAM": GradCAM, "Layer-CAM": LayerCAM}.items():
        with method(model=model, target_layers=[model.features]) as cam:
            maps[name] = cam(input_tensor=x, targets=targets)
    return maps
