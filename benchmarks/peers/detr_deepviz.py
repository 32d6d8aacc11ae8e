import deepviz
from deepviz.objectives import Box


def explain(model, x, label):
    found = deepviz.explain(deepviz.load_model(model), x, ["gradient", "grad-cam"], target=Box(label))
    return {one.title: one.attribution[None] for one in found}
