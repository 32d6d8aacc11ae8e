from torchcam.methods import GradCAM


def explain(model, x, label):
    def target(logits):
        return logits[logits.softmax(-1)[:, label].argmax(), label]

    with GradCAM(model, "model.input_projection") as extractor:
        return {"Grad-CAM": extractor(scores=model(x).logits, targets=target)[0]}
