from captum.attr import IntegratedGradients, LayerGradCam


def explain(model, x, target):
    return {
        "Grad-CAM": LayerGradCam(model, model.features).attribute(x, target=target),
        "Integrated gradients": IntegratedGradients(model).attribute(x, target=target),
    }
