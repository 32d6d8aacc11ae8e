import importlib.util
import tomllib
from pathlib import Path

from deepviz.cli import doctor, run


def test_doctor_says_what_is_installed(capsys):
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("deepviz ")
    for extra in doctor.EXTRAS:
        assert f"extra {extra} (" in out
    assert "bundled model: " in out


def test_doctor_says_how_to_get_what_is_missing(capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "timm" else found(name))
    assert run(["doctor"]) == 0
    assert "extra timm (timm, torchvision): missing; pip install 'deepviz[timm]'" in capsys.readouterr().out


def test_it_knows_every_extra():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {*doctor.EXTRAS, "all"} == set(project["optional-dependencies"])
    (everything,) = project["optional-dependencies"]["all"]
    assert everything == f"deepviz[{','.join(doctor.EXTRAS)}]"
