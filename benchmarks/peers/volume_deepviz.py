from deepviz.methods import GradCAM, IntegratedGradients


def explain(model, x, target):
    return {
        "Grad-CAM": GradCAM()(model, x, target),
        "Integrated gradients": IntegratedGradients()(model, x, target),
    }
