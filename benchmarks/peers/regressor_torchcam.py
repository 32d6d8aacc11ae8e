from torchcam.methods import GradCAM


def explain(model, x):
    with GradCAM(model, "features") as extractor:
        return {"Grad-CAM": extractor(0, model(x))[0]}
