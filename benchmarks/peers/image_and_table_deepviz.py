from deepviz.methods import GradCAM, IntegratedGradients


def explain(model, x, table, target):
    return {
        "Grad-CAM": GradCAM()(model, x, target, extra=table),
        "Integrated gradients": IntegratedGradients()(model, x, target, extra=table),
    }
