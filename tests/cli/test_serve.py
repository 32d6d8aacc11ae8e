"""`deepviz serve`: what it refuses, what it prints, and that the link it prints works."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import deepviz
import deepviz.web
import tiny_run
from deepviz.cli import run
from pictures import picture_file

TESTS = Path(__file__).parent.parent


@pytest.fixture
def started():
    """Starts servers on free ports; gives the link that each prints, and the process."""
    running = []

    def start(*arguments):
        command = [sys.executable, "-m", "deepviz", "serve", "--no-browser", "--port", "0", *arguments]
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            # tests that a shell runs in the background inherit a Ctrl-C that does nothing
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        running.append(process)
        line = process.stdout.readline()
        link = re.search(r"http://\S+", line)
        assert link, (line, process.stderr.read())
        return link[0], process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def ask(link, path, token=True):
    address, _, fragment = link.partition("#token=")
    request = urllib.request.Request(address + path, headers={"X-DeepViz-Token": fragment} if token else {})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read()


def test_the_link_that_it_prints_works_and_ctrl_c_ends_it(started, tmp_path):
    (tmp_path / "a.png").write_bytes(picture_file())
    (tmp_path / "broken.png").write_bytes(b"nothing")
    link, process = started(
        "--model", "small_models:good", "--model", "small_models:one_logit", "--photos", str(tmp_path)
    )
    assert b"<title>DeepViz" in ask(link, "")
    assert [model["id"] for model in json.loads(ask(link, "api/models"))] == ["small", "small-2"]
    assert [one["name"] for one in json.loads(ask(link, "api/photographs"))] == ["a.png"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(link, "api/models", token=False)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "left out: broken.png" in told
    assert "Traceback" not in told


def test_named_volumes_are_served(started, tmp_path):
    np.save(tmp_path / "scan.npy", np.zeros((3, 4, 5), np.float32))
    (tmp_path / "more").mkdir()
    np.save(tmp_path / "more" / "other.npy", np.ones((3, 4, 5), np.float32))
    (tmp_path / "more" / "a.png").write_bytes(picture_file())
    link, process = started(
        str(tmp_path / "scan.npy"), str(tmp_path / "more"), "--model", "small_models:volumes_as_stored"
    )
    assert [one["name"] for one in json.loads(ask(link, "api/photographs"))] == ["scan.npy", "other.npy"]
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert told.startswith("deepviz: 1 file skipped: 1 .png\n")


def test_a_strangers_method_is_offered_beside_the_others(started):
    link, process = started("--model", "small_models:good", "-m", "small_models:Strange")
    offered = {one["name"]: one for one in json.loads(ask(link, "api/models/small/methods"))}
    assert offered["small_models:Strange"]["reason"] == ""
    assert offered["small_models:Strange"]["options"][0]["name"] == "depth"
    assert "grad-cam" in offered
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)


def test_beyond_this_machine_it_says_what_that_means(started):
    link, process = started("--model", "small_models:good", "--host", "0.0.0.0", "--allow-host", "example.org")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(link, "api/models", token=False)
    assert json.loads(ask(link, "api/models"))
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert "which other machines can reach" in told
    assert "whoever has the link" in told


def test_every_start_has_a_token_of_its_own(started):
    links = {started("--model", "small_models:good")[0].partition("token=")[2] for _ in range(2)}
    assert len(links) == 2
    assert all(len(token) >= 43 for token in links)


@pytest.mark.parametrize("from_environment", [False, True])
def test_a_token_of_ones_own(started, monkeypatch, from_environment):
    token = "a-token-of-my-own_1.2~3"
    if from_environment:
        monkeypatch.setenv("DEEPVIZ_TOKEN", token)
    link, _ = started("--model", "small_models:good", *([] if from_environment else ["--token", token]))
    assert link.endswith(f"/#token={token}")
    assert json.loads(ask(link, "api/models"))
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(link.replace(token, token[:-1]), "api/models")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--token", "short"], 2, "--token has 5 characters and needs at least 16, such as "),
        (["--token", ""], 2, "--token has 0 characters and needs at least 16, such as "),
        (["--token", "a token with spaces and #"], 2, "--token may hold letters, digits"),
        (["-m", "small_models:Nobody"], 2, "no method 'small_models:Nobody'"),
        (["--port", "70000"], 2, "--port must be from 0 to 65535"),
        (["--model", "small_models:good", "--model", "small_models:good", "--weights", "random"], 2, "for one model"),
        (["--photos", "/nothing/here"], 3, "does not exist"),
        (["/nothing.nii.gz", "--model", "small_models:volumes"], 3, "/nothing.nii.gz does not exist"),
        (
            ["--model", "small_models:volumes_as_stored"],
            3,
            "give a file to begin with, or size= of its VolumePreprocess",
        ),
        (["--model", "small_models:volumes", "--model", "small_models:good"], 3, "serve each on a --port of its own"),
        (["--model", "resnet5"], 3, "unknown model"),
        (["--host", "no.such.host.invalid", "--model", "small_models:good"], 3, "cannot listen on"),
        (["--device", "mps"], 2, "finds none on this machine"),
    ],
)
def test_what_it_refuses_in_one_line(monkeypatch, capsys, arguments, code, said):
    monkeypatch.setattr(deepviz.web, "serve", lambda *_: pytest.fail("it serves"))
    port = [] if "--port" in arguments else ["--port", "0"]
    assert run(["serve", "--no-browser", *port, *arguments]) == code
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_without_the_extra_it_says_how_to_get_it(monkeypatch, capsys):
    for name in [name for name in sys.modules if name == "deepviz.web" or name.startswith("deepviz.web.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert run(["serve", "--no-browser"]) == 3
    assert capsys.readouterr().err == "deepviz: the web app needs FastAPI and uvicorn: pip install 'deepviz[web]'\n"


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")
    root = tmp_path_factory.mktemp("served")
    images = tiny_run.folder_of_images(root / "images")
    return deepviz.run(tiny_run.loaded(), images, "gradient", out=root / "out").folder


def test_a_run_is_served_as_its_page(started, a_run):
    link, process = started(str(a_run))
    assert b"<title>DeepViz: a run" in ask(link, "")
    assert json.loads(ask(link, "api/run"))["images"] == 6
    assert json.loads(ask(link, "api/run/rows?where=index<2"))["total"] == 2
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(link, "api/run", token=False)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["other.png"], "is a run: give it alone"),
        (["--photos", "."], "is a run: give it alone"),
        (
            ["--model", "small_models:good"],
            "is a run, whose maps are stored: --model, --method and their options have no",
        ),
        (["--device", "cpu"], "have no effect"),
    ],
)
def test_what_has_no_effect_on_a_run_is_refused(a_run, more, told, capsys):
    assert run(["serve", str(a_run), *more]) == 2
    assert told in capsys.readouterr().err


def test_a_run_of_a_newer_version_is_refused(a_run, tmp_path, capsys):
    folder = shutil.copytree(a_run, tmp_path / "newer")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    assert run(["serve", str(folder)]) == 3
    assert "pip install -U deepviz" in capsys.readouterr().err


def test_images_beside_a_manifest_of_something_else_are_served(started, tmp_path):
    (tmp_path / "a.png").write_bytes(picture_file())
    (tmp_path / "manifest.json").write_text('{"name": "another program\'s"}')
    link, _ = started("--model", "small_models:good", str(tmp_path))
    assert [one["name"] for one in json.loads(ask(link, "api/photographs"))] == ["a.png"]


def test_a_run_in_an_archive_is_served(started, a_run, tmp_path, capsys):
    pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'deepviz[data]'")
    archive = shutil.make_archive(str(tmp_path / "run"), "zip", a_run)
    link, _ = started(f"zip://::{archive}")
    assert json.loads(ask(link, "api/run"))["images"] == 6
    assert run(["serve", f"zip://rows::{archive}"]) == 3
    assert "rows::" in (said := capsys.readouterr().err)
    assert said.endswith(" holds no run: it has no manifest.json\n")
