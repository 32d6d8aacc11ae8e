import deepviz


def explain(model, x, label):
    loaded = deepviz.load_model(model, output="maps")
    found = deepviz.explain(loaded, x, ["grad-cam(layer='features')", "integrated-gradients"], target=label)
    return {one.title: one.attribution[None] for one in found}
