from captum.attr import IntegratedGradients, LayerGradCam


def explain(model, x, label):
    mask = model(x)["out"].argmax(1) == label

    def score(x):
        return (model(x)["out"][:, label] * mask).sum((1, 2))

    return {
        "Grad-CAM": LayerGradCam(score, model.features).attribute(x),
        "Integrated gradients": IntegratedGradients(score).attribute(x),
    }
