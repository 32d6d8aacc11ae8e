import deepviz


def explain(model, x):
    loaded = deepviz.load_model(model, output="regression")
    found = deepviz.explain(loaded, x, ["grad-cam", "integrated-gradients"])
    return {one.title: one.attribution[None] for one in found}
