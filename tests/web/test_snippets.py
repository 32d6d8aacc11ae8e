"""Code and commands that give what the page shows."""

import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch

import deepviz
import small_models
from deepviz import catalog
from deepviz.cli import run
from deepviz.methods import GradCAM, Gradient, GuidedBackprop, IntegratedGradients, SmoothGrad
from deepviz.models import load_model
from deepviz.web.snippets import PAGE, Block, Shown
from deepviz.web.snippets import as_commands as commands_of
from deepviz.web.snippets import as_python as python_of
from pictures import picture_file

METHODS = [
    GradCAM(layer="2", relu=False),
    SmoothGrad(of=GuidedBackprop(), samples=4),
    IntegratedGradients(baseline="black"),
]


def as_python(loaded, rows, methods):
    return python_of([Block(loaded, tuple(rows), tuple(methods))])


def as_commands(loaded, rows, methods):
    return commands_of([Block(loaded, tuple(rows), tuple(methods))])


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "it's a photo.png"
    path.write_bytes(picture_file())
    return str(path)


@pytest.fixture
def loaded():
    return load_model("small_models:good")


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_the_code_runs_and_gives_the_same(loaded, photo, tmp_path, monkeypatch, capsys):
    """And ends with a page to look at."""
    monkeypatch.chdir(tmp_path)
    code = as_python(loaded, [Shown(photo, (1, 3)), Shown(photo, None)], METHODS)
    names = {}
    exec(code, names)
    assert capsys.readouterr().out == f"open {PAGE}\n"
    assert b"<title>" in (tmp_path / PAGE).read_bytes()
    expected = deepviz.explain(loaded, photo, METHODS, target=[1, 3]) + deepviz.explain(loaded, photo, METHODS)
    assert len(names["explanations"]) == 9
    for found, wanted in zip(names["explanations"], expected, strict=True):
        assert found.method == wanted.method
        assert found.target.index == wanted.target.index
        np.testing.assert_allclose(found.values, wanted.values, rtol=1e-5, atol=1e-7)


def test_the_command_runs(loaded, photo, tmp_path, capsys):
    (line,) = as_commands(loaded, [Shown(photo, (1, 3))], METHODS).splitlines()
    words = shlex.split(line)
    assert words[:3] == ["deepviz", "explain", photo]
    assert run([*words[1:], "-o", str(tmp_path / "out"), "--json"]) == 0
    told = capsys.readouterr().out
    for method in METHODS:
        assert repr(method).split("(")[0] in told
    assert told.count('"label"') >= 6
    assert "relu=False" in told
    assert "samples=4" in told


def test_only_what_differs_from_the_defaults_is_written(loaded):
    code = as_python(loaded, [Shown("a.jpg", None)], [Gradient(), SmoothGrad()])
    assert "methods = [Gradient(), SmoothGrad()]" in code
    assert "from deepviz.methods import Gradient, SmoothGrad" in code
    (line,) = as_commands(loaded, [Shown("a.jpg", None)], [cls() for cls in catalog.METHODS.values()]).splitlines()
    assert shlex.split(line).count("-m") == len(catalog.METHODS)
    assert not any(word.startswith(tuple(f"--{name}" for name in catalog.METHODS)) for word in shlex.split(line))


def test_the_bundled_model_and_random_weights():
    bundled = small_models.good()
    object.__setattr__(bundled, "source", "bundled")
    assert "load_model(None)" in as_python(bundled, [Shown("a", None)], [Gradient()])
    assert "--model" not in as_commands(bundled, [Shown("a", None)], [Gradient()])
    object.__setattr__(bundled, "weights", "random")
    assert "weights='random'" in as_python(bundled, [Shown("a", None)], [Gradient()])
    assert "--weights random" in as_commands(bundled, [Shown("a", None)], [Gradient()])


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_a_model_of_ones_own_is_loaded_as_it_was(photo, tmp_path, monkeypatch, capsys):
    """With its file of weights, labels and preprocessing: code and command give the maps of the page."""
    monkeypatch.chdir(tmp_path)
    torch.save(small_models.seeded(small_models.network(), seed=7).state_dict(), "animals5.pt")
    (tmp_path / "names.txt").write_text("cat\nred fox\nwolf\nlynx\ncrane\n")
    preprocess = deepviz.Preprocess(32, crop=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    loaded = load_model(
        "small_models:network", weights="animals5.pt", labels=tmp_path / "names.txt", preprocess=preprocess, name="mine"
    )
    rows, methods = [Shown(photo, (1,))], [Gradient()]
    (wanted,) = deepviz.explain(loaded, photo, methods, target=[1])
    names = {}
    exec(as_python(loaded, rows, methods), names)
    (found,) = names["explanations"]
    np.testing.assert_allclose(found.values, wanted.values, rtol=1e-5, atol=1e-7)
    assert (found.model, found.target.label) == (wanted.model, "red fox")
    assert "num_classes" not in as_python(loaded, rows, methods)
    capsys.readouterr()

    (line,) = as_commands(loaded, rows, methods).splitlines()
    assert "--target 'red fox'" in line
    assert run([*shlex.split(line)[1:], "-o", "out", "--format", "npz"]) == 0
    (stored,) = (tmp_path / "out").rglob("*.npz")
    with np.load(stored) as arrays:
        np.testing.assert_allclose(arrays["attribution"], wanted.attribution, rtol=1e-5, atol=1e-7)


def test_what_cannot_be_written_is_said(photo):
    loaded = load_model("small_models:network", preprocess=lambda image: torch.zeros(3, 32, 32), labels=list("abcde"))
    code = as_python(loaded, [Shown(photo, (1,))], [Gradient()])
    assert "labels=['a', 'b', 'c', 'd', 'e']" in code
    assert "preprocess=...)  # fill in your own preprocess" in code or "preprocess=..., " in code
    compile(code, "snippet", "exec")
    command = as_commands(loaded, [Shown(photo, (1,))], [Gradient()])
    assert "--target 1" in command, "names that the command is not given are no targets"


def test_rows_of_the_same_classes_share_a_call(loaded):
    rows = [Shown("a", (1,)), Shown("b", None), Shown("c", (1,))]
    assert as_python(loaded, rows, [Gradient()]).count("deepviz.explain(") == 2
    command = as_commands(loaded, rows, [Gradient()])
    assert command.count("deepviz explain") == 2
    assert len(command.splitlines()) == 1


def test_classes_are_written_by_name(loaded):
    """Where the name says which class it is: of two classes with one name, or of none, the index."""
    rows = [Shown("a", (1, "logit(3) - logit(1)"))]
    named = replace(loaded, labels=("tench", "red fox", "red fox", "crane", "7"))
    assert "target=['red fox'" not in as_python(named, rows, [Gradient()])
    named = replace(loaded, labels=("tench", "red fox", "crane", "tiger cat", "7"))
    assert "target=['red fox', 'tiger cat - red fox']" in as_python(named, rows, [Gradient()])
    words = shlex.split(as_commands(named, rows, [Gradient()]))
    assert [words[at + 1] for at, word in enumerate(words) if word == "--target"] == ["red fox", "tiger cat - red fox"]
    assert "target=[4]" in as_python(named, [Shown("a", (4,))], [Gradient()]), "a number is an index"
    assert "target=[1]" in as_python(replace(loaded, labels=None), [Shown("a", (1,))], [Gradient()])


@pytest.mark.parametrize("name", ["a'; rm -rf ~; '.png", "$(reboot).png", "-m.png", 'a"b.png', "a\\b.png"])
def test_a_name_stays_a_name(loaded, name):
    (line,) = as_commands(loaded, [Shown(name, None)], [Gradient()]).splitlines()
    assert name in [word.removeprefix("./") for word in shlex.split(line)]
    code = as_python(loaded, [Shown(name, None)], [Gradient()])
    assert f"[{name!r}]" in code
    compile(code, "snippet", "exec")


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_columns_of_several_layers_and_models_are_one_script(loaded, photo, tmp_path, monkeypatch):
    """Nothing is lost on the way: every column of every row, each by its model."""
    monkeypatch.chdir(tmp_path)
    rows = (Shown(photo, (1,)), Shown(photo, (3,)))
    other = load_model("small_models:softmax")
    blocks = [Block(loaded, rows, (GradCAM(layer=layer),)) for layer in ("0", "2")]
    blocks.append(Block(other, rows[:1], (Gradient(),)))
    names = {}
    exec(python_of(blocks), names)
    found = [(one.method, one.target.index) for one in names["explanations"]]
    layers = [(GradCAM(layer=layer), target) for target in (1, 3) for layer in ("0", "2")]
    assert found == [*layers, (Gradient(), 1)]
    assert python_of(blocks).count("explanations = []") == 1


def test_several_commands_do_not_overwrite_each_other(loaded, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = (Shown(photo, (1,)),)
    blocks = [Block(loaded, rows, (GradCAM(layer=layer),)) for layer in ("0", "2")]
    blocks.append(Block(loaded, (Shown(photo, (2,)),), (GradCAM(layer="0"),)))
    (line,) = commands_of(blocks).splitlines()
    commands = line.split(" && ")
    assert len(commands) == 2, "layers are methods with options"
    for command in commands:
        assert run(shlex.split(command)[1:]) == 0
    assert len(list(tmp_path.rglob("grad-cam*.png"))) == 3


def test_an_upload_is_no_example_of_the_package(loaded):
    """Whatever its name: what the package calls chelsea is a cat."""
    code = as_python(loaded, [Shown("chelsea.png", None, uploaded=True)], [Gradient()])
    assert "example_photo" not in code
    assert "# uploaded images" in code
    code = as_python(loaded, [Shown("/somewhere/chelsea.png", None, example="chelsea")], [Gradient()])
    assert 'deepviz.example_photo("chelsea")' in code
    assert "uploaded" not in code
