import torch

import deepviz
from deepviz.objectives import Box, Candidates


class Candidate(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        output = self.model.candidates(x)
        return Candidates(output[..., :4], output[..., 4:], output[..., 4:].sigmoid())


def explain(model, x, label, box):
    loaded = deepviz.load_model(Candidate(model), output="detections")
    found = deepviz.explain(loaded, x, ["grad-cam", "integrated-gradients"], target=Box(label, box=box))
    return {one.title: one.attribution[None] for one in found}
