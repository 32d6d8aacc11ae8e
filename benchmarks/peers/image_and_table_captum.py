from captum.attr import IntegratedGradients, LayerGradCam


def explain(model, x, table, target):
    given = {"target": target, "additional_forward_args": (table,)}
    return {
        "Grad-CAM": LayerGradCam(model, model.features).attribute(x, **given),
        "Integrated gradients": IntegratedGradients(model).attribute(x, **given),
    }
