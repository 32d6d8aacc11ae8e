"""The widget in a real JupyterLab page."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

import deepviz

CELLS = [
    "import deepviz, torch\n"
    "net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 24, 5))\n"
    "made = deepviz.explain(net, torch.rand(3, 24, 24), ['gradient', 'grad-times-image'])\n"
    "widget = deepviz.compare(made, opacity=0.5)\n"
    "widget",
    "print('opacity', widget.settings['opacity'])",
]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def lab(tmp_path):
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed: pip install jupyterlab")
    pytest.importorskip("anywidget")
    cells = [
        {"cell_type": "code", "id": f"c{n}", "execution_count": None, "metadata": {}, "outputs": [], "source": source}
        for n, source in enumerate(CELLS)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "maps.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    port, token = free_port(), secrets.token_hex(8)
    source = str(Path(deepviz.__file__).parents[1])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")]),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", f"--port={port}"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={tmp_path}"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/api?token={token}", server)
        yield f"{address}/lab/tree/maps.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait(20)


def wait_for(address, server, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urlopen(address, timeout=5):
                return
        except (URLError, ConnectionError):
            time.sleep(0.2)
    raise AssertionError("JupyterLab did not start")


def run(page, number):
    page.locator(".jp-Notebook .jp-Cell").nth(number).locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")


def test_the_widget_draws_and_its_controls_reach_python(lab, chromium):
    page = chromium.new_page()
    page.set_default_timeout(60_000)
    try:
        page.goto(lab)
        page.get_by_text("| Idle").wait_for()  # the kernel is there
        run(page, 0)
        page.locator(".dv-tile").nth(1).wait_for()
        # images of 24 pixels, enlarged by whole ones
        drawn = "[...document.querySelectorAll('.dv-canvas')].every((one) => one.width > 0 && one.width % 24 === 0)"
        page.wait_for_function(f"() => {drawn}")
        page.get_by_label("Opacity").fill("20")
        run(page, 1)
        page.get_by_text("opacity 0.2", exact=True).wait_for()
    finally:
        page.close()
