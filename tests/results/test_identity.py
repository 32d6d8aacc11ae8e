"""What results are told apart by, and what they are called."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

import deepviz
from deepviz import catalog
from deepviz.methods import GradCAM, Gradient, IntegratedGradients, Method, SmoothGrad
from deepviz.metrics import Deletion
from deepviz.results.evaluation import ImageScores
from deepviz.results.identity import captions
from deepviz.results.sanity import StoredRandomization, numbers_of


def test_all_options_and_the_layer_are_part_of_a_key():
    methods = [
        *(cls() for cls in catalog.METHODS.values()),
        GradCAM("1"),
        GradCAM("3"),
        GradCAM(relu=False),
        SmoothGrad(of=GradCAM("1")),
        SmoothGrad(of=GradCAM("3")),
        SmoothGrad(seed=1),
        IntegratedGradients(baseline=torch.zeros(3, 1, 1)),
        IntegratedGradients(baseline=torch.ones(3, 1, 1)),
        IntegratedGradients(baseline="black"),
    ]
    assert len({catalog.key(one) for one in methods}) == len(methods)
    assert catalog.key(IntegratedGradients(baseline=torch.zeros(3))) == catalog.key(
        IntegratedGradients(baseline=torch.zeros(3))
    )


def test_a_layer_that_was_found_is_that_layer():
    module = torch.nn.Conv2d(1, 1, 1)
    assert catalog.key(GradCAM(), "3") == catalog.key(GradCAM("3"), "3") == catalog.key(GradCAM(module), "3")
    assert catalog.key(GradCAM("1"), "1") != catalog.key(GradCAM(), "3")
    inside = SmoothGrad(of=GradCAM(), samples=2)
    assert catalog.key(inside, "3") == catalog.key(SmoothGrad(of=GradCAM("3"), samples=2))
    assert catalog.key(Gradient(), None) == catalog.key(Gradient())


@dataclass(frozen=True)
class Quiet(Method):
    """Does not tell its options in captions."""

    depth: int = 1
    title: ClassVar[str] = "Quiet"

    def maps(self, session):
        return session.image()

    def __str__(self):
        return self.title


def test_a_strangers_method_is_known_by_its_module():
    assert catalog.key(Quiet(2)) == f"{Quiet.__module__}:Quiet(depth=2)"


def test_rows_name_a_call_with_its_title():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.act = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.act(self.second(self.act(self.first(x)))).mean((2, 3)))

    model, images = Twice(), torch.rand(1, 3, 12, 12)
    layers = ("act#1 (ReLU after first)", "act#2 (ReLU after second)")
    methods = [GradCAM("act#1", relu=False), GradCAM("act#2", relu=False)]
    judged = deepviz.evaluate(model, images, methods, Deletion(steps=2), controls=False, target=0)
    assert judged.rows == tuple(f"Grad-CAM, relu False, layer {one}" for one in layers)
    checked = deepviz.sanity_check(model, images, methods, stages=1, target=0)
    assert checked.methods == judged.rows
    # and so have those that are stored
    titles = {"act#1": "ReLU after first", "act#2": "ReLU after second"}
    assert ImageScores.from_json(judged.judged[0].as_json()).titles == titles
    assert StoredRandomization.from_json(numbers_of(checked.examined[0]), object()).titles == titles


def test_rows_of_one_name_are_told_apart():
    def of(*methods, layers=None):
        return captions(methods, layers or [None] * len(methods))

    assert of(Gradient(), GradCAM()) == ("Gradient", "Grad-CAM")
    assert of(GradCAM("1"), GradCAM("3")) == ("Grad-CAM, layer 1", "Grad-CAM, layer 3")
    assert of(GradCAM(), GradCAM("1"), layers=["3", "1"]) == ("Grad-CAM, layer 3", "Grad-CAM, layer 1")
    assert of(SmoothGrad(GradCAM("1")), SmoothGrad(GradCAM("3"))) == (
        "SmoothGrad of Grad-CAM, layer 1",
        "SmoothGrad of Grad-CAM, layer 3",
    )
    assert of(Quiet(1), Quiet(2)) == ("Quiet, depth 1", "Quiet, depth 2")
    assert of(Gradient(), Gradient()) == ("Gradient", "Gradient (2)")
    assert of(GradCAM("1"), GradCAM("3", relu=False)) == ("Grad-CAM", "Grad-CAM, relu False")
