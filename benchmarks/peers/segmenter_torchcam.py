from torchcam.methods import GradCAM


def explain(model, x, label):
    with GradCAM(model, "features") as extractor:
        scores = model(x)["out"]
        mask = scores[0].argmax(0) == label
        return {"Grad-CAM": extractor(scores=scores, targets=lambda z: (z[label] * mask).sum())[0]}
