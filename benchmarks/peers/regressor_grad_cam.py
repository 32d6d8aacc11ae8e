from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import RawScoresOutputTarget


def explain(model, x):
    with GradCAM(model=model, target_layers=[model.features]) as cam:
        return {"Grad-CAM": cam(input_tensor=x, targets=[RawScoresOutputTarget()])}
