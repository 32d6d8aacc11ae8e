from torchcam.methods import GradCAM


def explain(model, x, target):
    with GradCAM(model, "features") as extractor:
        return {"Grad-CAM": extractor(target, model(x))[0]}
