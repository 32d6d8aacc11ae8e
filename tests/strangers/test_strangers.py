"""Methods from outside: one file each, offered on the command line and in the page, nothing edited elsewhere."""

import json
import shlex

import pytest
import torch

import deepviz
from deepviz import catalog
from deepviz.cli import run
from deepviz.methods import GradCAM
from deepviz.web.forms import MethodForm, described, method_of
from deepviz.web.snippets import Block, Shown, as_commands, as_python
from networks import CASES, assert_same
from pictures import picture_file
from strangers.layer_cam import LayerCAM
from strangers.rise import RISE

STRANGERS = {"strangers.layer_cam:LayerCAM": LayerCAM, "strangers.rise:RISE": RISE}


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.png").write_bytes(picture_file())
    return "cat.png"


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(catalog, "METHODS", dict(catalog.METHODS))
    for cls in STRANGERS.values():
        catalog.register(cls)


def test_layer_cam_is_grad_cam_where_gradients_are_positive_and_alike():
    """On a network whose head is a mean over space with positive weights, the weights do not depend on the place."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
                                torch.nn.Flatten(), torch.nn.Linear(4, 5)).double()  # fmt: skip
    with torch.no_grad():
        model[4].weight.abs_()
    x = CASES["plain"].images()
    assert_same(LayerCAM("1")(model, x, 3), GradCAM("1")(model, x, 3))


def test_rise_finds_the_only_pixels_that_count():
    """The score is the sum of the left half: masks that show it score more, by what they show of it."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 12, 2, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_((torch.arange(12) < 6).repeat(2, 3, 12, 1).flatten(1))
    found = RISE(masks=800, cells=4)(model, torch.ones(1, 3, 12, 12, dtype=torch.float64), 0)[0, 0]
    assert float(found[:, :5].mean()) > 1.02 * float(found[:, 7:].mean())


@pytest.mark.parametrize("spelled", ["strangers.layer_cam:LayerCAM(layer=1)", "strangers.rise:RISE(masks=8, cells=3)"])
def test_on_the_command_line_with_options(spelled, photo, capsys):
    arguments = ["explain", photo, "--model", "small_models:good", "--method", spelled, "--json"]
    assert run(arguments) == 0
    (told,) = json.loads(capsys.readouterr().out)["photographs"][0]["explanations"]
    assert told["method"] == repr(catalog.parse(spelled))
    assert run(["evaluate", photo, "--model", "small_models:good", "-m", spelled, "--metric", "deletion(steps=3)"]) == 0


def test_in_python_by_name_and_from_a_file(photo):
    found = deepviz.explain(
        "small_models:good", photo, ["strangers.layer_cam:LayerCAM", "strangers.rise:RISE(masks=8)"]
    )
    path = deepviz.save_explanations(found, "strangers")
    assert [one.method for one in deepviz.load_explanations(path)] == [LayerCAM(), RISE(masks=8)]


def test_in_the_page(registered, photo, capsys):
    for name, cls in STRANGERS.items():
        told = described(name)
        assert told["title"] == cls.title
        assert {option["name"] for option in told["options"]} == {option.name for option in catalog.options(cls)}
        json.dumps(told)
        assert method_of(MethodForm(name=name)) == cls()
    chosen = (method_of(MethodForm(name="strangers.rise:RISE", options={"masks": "8"})), LayerCAM(layer="1"))
    loaded = deepviz.load_model("small_models:good")
    block = Block(loaded, (Shown(photo, (1,)),), chosen)
    names = {}
    exec(as_python([block]), names)
    assert [one.method for one in names["explanations"]] == list(chosen)
    assert run(shlex.split(as_commands([block]))[1:]) == 0
    capsys.readouterr()


def test_all_does_not_grow_by_what_is_dear(registered):
    assert "strangers.layer_cam:LayerCAM" in catalog.default_set()
    assert "strangers.rise:RISE" not in catalog.default_set()


def test_the_page_sees_cheaply_whether_one_applies():
    assert catalog.cheapest(RISE).passes() == 2
