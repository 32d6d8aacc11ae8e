from captum.attr import IntegratedGradients, LayerGradCam


def explain(model, x):
    return {
        "Grad-CAM": LayerGradCam(model, model.features).attribute(x, target=0),
        "Integrated gradients": IntegratedGradients(model).attribute(x, target=0),
    }
