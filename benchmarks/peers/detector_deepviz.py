import deepviz
from deepviz.objectives import Box, Candidates


def read(output):
    return Candidates(output[..., :4], output[..., 4:], output[..., 4:].sigmoid())


def explain(model, x, label, box):
    loaded = deepviz.load_model(deepviz.detector(model, read))
    found = deepviz.explain(loaded, x, ["grad-cam", "integrated-gradients"], target=Box(label, box=box))
    return {one.title: one.attribution[None] for one in found}
