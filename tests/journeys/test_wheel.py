"""What people install: the wheel, by itself, explains and serves its page; nothing of it lies in the checkout alone."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path


def test_it_is_the_wheel_that_runs(python, installed):
    code = "import deepviz; print(deepviz.__file__); print(deepviz.example_photo())"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, **python).stdout.splitlines()
    assert [Path(line).is_relative_to(installed) for line in said] == [True, True]


def test_it_explains(python):
    command = [sys.executable, "-m", "deepviz", "explain", "--model", "small_models:good", "-m", "gradient"]
    subprocess.run([*command, "--html", "report.html"], check=True, capture_output=True, **python)
    assert "<script" in (python["cwd"] / "report.html").read_text()


def test_it_serves_the_page(python):
    command = [sys.executable, "-u", "-m", "deepviz", "serve", "--model", "small_models:good", "--no-browser"]
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, **python) as server:
        try:
            link = re.search(r"http://\S+", server.stdout.readline())[0]
            address, _, token = link.partition("#token=")
            page = urllib.request.urlopen(address).read().decode()
            parts = re.findall(r'(?:src|href)="((?:static|viewer)/[^"]+)"', page)
            assert len(parts) >= 4
            seen = set()
            while parts:
                part = parts.pop()
                if part not in seen:
                    seen.add(part)
                    content = urllib.request.urlopen(address + part).read().decode()
                    names = re.findall(r'from "(\.[^"]+)"', content)
                    parts += [os.path.normpath(os.path.join(os.path.dirname(part), name)) for name in names]
            assert {"static/app.js", "static/trust.js", "static/drawing.js", "viewer/viewer.js"} <= seen
            asking = urllib.request.Request(f"{address}api/start", headers={"X-DeepViz-Token": token})
            assert json.load(urllib.request.urlopen(asking))["models"][0]["name"] == "small"
        finally:
            server.terminate()
