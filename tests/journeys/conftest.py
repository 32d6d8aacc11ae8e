"""A new user: an empty folder, and the wheel alone on Python's path."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import deepviz

ROOT = Path(__file__).parent.parent.parent
ANIMALS = {"cat": "tiger cat", "fox": "red fox", "wolf": "timber wolf", "coffee": "espresso", "teapot": "teapot"}
"""Five classes, and the class of ImageNet whose weights each has."""


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The wheel, unpacked as pip does it."""
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def python(installed, tmp_path):
    """How to run Python in an empty folder, with the wheel."""
    path = os.pathsep.join([str(installed), str(ROOT / "tests")])
    return {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": path}, "text": True}


class Home:
    """An empty folder, in which commands are typed."""

    def __init__(self, python):
        self.python, self.folder = python, python["cwd"]

    def __truediv__(self, name):
        return self.folder / name

    @staticmethod
    def command(*arguments):
        return [sys.executable, "-u", "-m", "deepviz", *map(str, arguments)]

    def deepviz(self, *arguments, code=0):
        """stdout and stderr of a command that ends with this code."""
        done = subprocess.run(self.command(*arguments), capture_output=True, check=False, timeout=300, **self.python)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout, done.stderr

    def shell(self, line, **options):
        """A line of bash, in which `deepviz` is the command."""
        command = f'set -o pipefail; deepviz() {{ "{sys.executable}" -m deepviz "$@"; }}; {line}'
        return subprocess.run(["bash", "-c", command], check=False, timeout=300, **self.python | options)

    def run(self, code):
        """stdout of a Python program."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, check=False, **self.python
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def started(self, *arguments):
        """A command that runs, with its streams as pipes."""
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(self.command(*arguments), **streams, **self.python)

    def json(self, name):
        return json.loads((self / name).read_text())


@pytest.fixture
def home(python):
    return Home(python)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """What training leaves: a checkpoint of a network of five classes, as Lightning writes it; and the same network."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra demo is not installed")
    if find_spec("timm") is None:  # importing it may need more than is there
        pytest.skip("the extra timm is not installed")
    trained = deepviz.load_model()
    rows = [trained.index(name) for name in ANIMALS.values()]
    architecture = deepviz.load_model("timm:tf_efficientnet_lite0", weights="random").module
    names, state = list(architecture.state_dict()), list(trained.module.state_dict().values())
    state[-2:] = [state[-2][rows].clone(), state[-1][rows].clone()]  # the last layer
    path = tmp_path_factory.mktemp("training") / "animals5.pt"
    held = {f"model.{name}": value for name, value in zip(names, state, strict=True)}
    torch.save({"epoch": 3, "state_dict": held, "optimizer_states": [{"lr": 0.1}]}, path)
    return path


@pytest.fixture
def own_model(home, checkpoint):
    """A folder with an image, the checkpoint and a list of classes."""
    shutil.copy(checkpoint, home / "animals5.pt")
    shutil.copy(deepviz.example_photo(), home / "cat.png")
    (home / "classes.txt").write_text("\n".join(ANIMALS) + "\n")
    return home
