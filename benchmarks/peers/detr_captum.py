from captum.attr import LayerGradCam, Saliency


def explain(model, x, label):
    query = model(x).logits.softmax(-1)[0, :, label].argmax()

    def score(x):
        return model(x).logits[:, query, label]

    layer = model.model.input_projection
    return {
        "Gradient": Saliency(score).attribute(x),
        "Grad-CAM": LayerGradCam(score, layer).attribute(x),
    }
