"""A part of the zoo of architectures, small enough for every run; `benchmarks/zoo.py` asks all of them."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parents[1] / "benchmarks"


def _load(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


zoo = _load("zoo")
ARCHITECTURES = {one.name: one for one in _load("architectures").ARCHITECTURES}
zoo_methods = _load("zoo_methods")
QUICK = (
    "timm test_byobnet",
    "timm test_convnext",
    "timm swin_tiny_patch4_window7_224",
    "timm cait_xxs24_224",
    "timm vit_base_patch14_reg4_dinov2",
    "timm hiera_tiny_224",
    "transformers ViTForImageClassification",
    "transformers Dinov2WithRegistersForImageClassification",
    "transformers CLIPModel",
    "transformers YolosForObjectDetection",
    "transformers ASTForAudioClassification",
    "transformers VideoMAEForVideoClassification, channels first",
    "transformers VivitForVideoClassification",
    "torch TransformerEncoder, sequence first",
)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", QUICK)
def test_nothing_is_wrong(name):
    judged = zoo.Judged(name, zoo.judge(ARCHITECTURES[name]))
    assert judged.verdict in ("right", "refused"), {question: str(cell) for question, cell in judged.cells.items()}


@pytest.mark.parametrize(
    "name",
    ["timm test_byobnet", "transformers ViTForImageClassification", "transformers ConvNextForImageClassification"],
)
def test_no_method_is_wrong(name):
    cells, _ = zoo_methods.judge(ARCHITECTURES[name])
    assert {key: str(cell) for key, cell in cells.items() if cell.verdict not in ("right", "refused")} == {}
    by_formula = [key for key, cell in cells.items() if (cell.verdict, cell.detail) == ("right", "")]
    assert len(by_formula) >= 24  # the others are refused, zero, or of stages whose layout is not in the table


def test_a_method_that_takes_another_gradient_is_told(monkeypatch):
    from deepviz.methods import HiResCAM

    monkeypatch.setattr(HiResCAM, "combine", lambda self, A, dA: (dA.abs() * A).sum(1, keepdim=True))
    cells, _ = zoo_methods.judge(ARCHITECTURES["transformers ViTForImageClassification"], ["hi-res-cam", "grad-cam"])
    assert [cell.verdict for cell in cells.values()] == ["wrong", "right"]


def test_a_wrong_layout_is_told():
    one = ARCHITECTURES["transformers ViTForImageClassification"]
    shifted = replace(one, layout=zoo.tokens(6, 8, after=1))
    cells = zoo.judge(shifted)
    assert (cells["Grad-CAM"].verdict, cells["default layer"].verdict) == ("wrong", "right")
    assert zoo.misplaced(one) == {}
    transposed = replace(one, layout=lambda values: zoo.tokens(8, 6, before=1)(values))
    assert list(zoo.misplaced(transposed)) == ["vit.layers.1.layernorm_before"]


def test_a_layer_that_may_not_be_chosen_is_told():
    one = replace(ARCHITECTURES["timm test_byobnet"], last="head")
    assert zoo.judge(one)["default layer"].verdict == "wrong"


def test_the_written_tables_hold_all_of_them_and_nothing_wrong():
    written = (HERE / "ZOO.md").read_text()
    assert [name for name in ARCHITECTURES if f"| {name} |" not in written] == []
    assert "| wrong" not in written
    assert "{include} ../benchmarks/ZOO.md" in (HERE.parent / "docs" / "zoo.md").read_text()
