"""The page of a run: how long it takes to start, to be seen first, and to scroll, in a real browser without a window.

    python benchmarks/run_page.py [--images 100000] [--markdown benchmarks/RESULTS.md]

A run of 512 images of 500 x 375 pixels, explained by a tiny network, is written out to so many rows, with numbers and
labels drawn at random. Start-up is the time from the command to the link; first paint, from opening the link to the
first maps that are drawn; the others, to all maps of a screen. Each is the median of several turns, and the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright
from results import replace_section, table

import deepviz
from deepviz.results.shards import Shard, read_manifest, write_manifest
from runs import tiny

CLASSES = 100
PICTURES = 512
SHARD = 256
TURNS = 5
DRAWN = "document.querySelectorAll('.item img[src]').length"
SEEN = """(() => {
  const box = document.getElementById('grid').getBoundingClientRect();
  const seen = [...document.querySelectorAll('.item')].filter((one) => {
    const { top, bottom } = one.getBoundingClientRect();
    return bottom > box.top && top < box.bottom;
  });
  return seen.length > 0 && seen.every((one) => one.querySelector('img[src]')?.complete);
})()"""


def small_run(folder: Path) -> Path:
    """A run of files, computed."""
    random = np.random.default_rng(0)
    for number in range(PICTURES):
        rough = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        path = folder / "images" / f"{number:05d}.jpg"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(rough).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    loaded = deepviz.LoadedModel(tiny(), "tiny", deepviz.Preprocess(112, crop=1.0), labels=("a", "b", "c"))
    out = folder / "small"
    deepviz.run(loaded, folder / "images", ["grad-cam", "gradient"], metrics=["sparseness"], out=out, shard_size=SHARD)
    return out


def large_run(small: Path, out: Path, images: int) -> None:
    """A run of many images, whose shards are those of a small one in turn."""
    random = np.random.default_rng(1)
    manifest = read_manifest(small)
    assert manifest is not None
    manifest["question"]["source"]["count"] = images
    shards = [Shard.read(small, number) for number in range(PICTURES // SHARD)]
    for number in range(-(-images // SHARD)):
        template = shards[number % len(shards)]
        assert template is not None
        shift = SHARD * (number - template.number)
        rows = []
        drawn: dict[int, dict[str, object]] = {}
        for row in template.rows:
            index = row["index"] + shift
            if index >= images:
                continue
            if index not in drawn:
                label, prediction = (f"class {one}" for one in random.integers(0, CLASSES, 2))
                if random.random() < 0.7:
                    prediction = label
                probability = float(random.random())
                drawn[index] = {
                    "index": index, "label": label, "prediction": prediction, "correct": label == prediction,
                    "probability": probability, "target": prediction, "target_probability": probability,
                }  # fmt: skip
            rows.append(
                row | drawn[index] | {"position": row["position"] + shift, "sparseness": float(random.random())}
            )
        files = {}
        for name, digest in template.files.items():
            place = name.split("/")
            place[place.index("c") + 1] = str(number)
            target = out / "/".join(place)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(small / name, target)
            files["/".join(place)] = digest
        (out / "rows").mkdir(parents=True, exist_ok=True)
        Shard(number, rows, template.methods, template.metrics, files).write(out)
    for path in (small / "maps").rglob("zarr.json"):
        held = json.loads(path.read_text())
        if "shape" in held:
            held["shape"][0] = images
        target = out / path.relative_to(small)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(held))
    write_manifest(out, manifest)


class Server:
    """`deepviz serve` in a process of its own."""

    def __init__(self, run: Path) -> None:
        command = [sys.executable, "-m", "deepviz", "serve", str(run), "--no-browser", "--port", "0"]
        started = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.link = re.search(r"http://\S+", self.process.stdout.readline())[0]  # type: ignore[index]
        self.started = time.perf_counter() - started

    def memory(self) -> float:
        """The peak, in MiB."""
        told = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", told)[1]) / 1024  # type: ignore[index]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)


IDLE = "document.getElementById('grid').getAttribute('aria-busy') === 'false'"
FAR = """((share) => [...document.querySelectorAll('.item')].some((one) =>
  Math.abs(Number(one.dataset.at) / Number(one.getAttribute('aria-setsize')) - share) < 0.07))"""
JUMP = "(share) => { const grid = document.getElementById('grid'); grid.scrollTop = share * grid.scrollHeight; }"
PLACES = (0.13, 0.31, 0.57, 0.78, 0.94)


class Turn:
    """One visit of the page; the times are put into `found`, in milliseconds."""

    def __init__(self, browser: Any, run: Path, images: int, found: dict[str, list[float]]) -> None:
        self.found, self.images = found, images
        server = Server(run)
        found.setdefault("from the command to the link", []).append(1000 * server.started)
        context = browser.new_context(viewport={"width": 1440, "height": 1000})
        self.requests: list[str] = []
        context.on("request", lambda request: self.requests.append(request.url))
        self.tab = context.new_page()
        self.took("the link, at once: first maps drawn", lambda: self.tab.goto(server.link), f"{DRAWN} > 0")
        self.tab.close()
        self.tab = context.new_page()
        self.took("the page again: first maps drawn", lambda: self.tab.goto(server.link), f"{DRAWN} > 0")
        self.took("after that: all maps of the screen", lambda: None, SEEN)
        self.visit()
        self.memory = server.memory()
        context.close()
        server.stop()

    def took(self, name: str, work: Callable[[], object], until: str) -> None:
        started = time.perf_counter()
        work()
        while not self.tab.evaluate(until):
            time.sleep(0.005)
        self.found.setdefault(name, []).append(1000 * (time.perf_counter() - started))

    def visit(self) -> None:
        before = len(self.requests)
        for share in PLACES:
            name = "scrolled to another place: all maps of the screen"
            self.took(name, lambda share=share: self.tab.evaluate(JUMP, share), f"{FAR}({share}) && {SEEN}")  # type: ignore[misc]
        self.after_scroll = (len(self.requests) - before) / len(PLACES)
        self.took(
            "sorted by a metric: all maps of the screen",
            lambda: self.tab.select_option("#sort", "sparseness"),
            f"{IDLE} && document.getElementById('grid').scrollTop === 0 && {SEEN}",
        )
        self.took(
            "filtered: all maps of the screen",
            lambda: (self.tab.fill("#where", "not correct and probability > 0.9"), self.tab.press("#where", "Enter")),
            f"!document.getElementById('counted').textContent.startsWith('{self.images:,} ') && {SEEN}",
        )
        self.took(
            "a row in full, two methods",
            lambda: self.tab.locator(".item").first.click(),
            "document.querySelector('#detail-table td') && !document.querySelector('.dv-frame[aria-busy=true]')",
        )


def measure(run: Path, images: int) -> tuple[list[list[str]], str]:
    """The times of the page, and what its server takes."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("no browser on this machine: apt-get install chromium")
    found: dict[str, list[float]] = {}
    with sync_playwright() as driver:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=chromium, args=sandbox)
        turns = [Turn(browser, run, images, found) for _ in range(TURNS)]
        browser.close()
    rows = [[name, f"{statistics.median(times):,.0f}", f"{max(times):,.0f}"] for name, times in found.items()]
    memory, requests = max(turn.memory for turn in turns), max(turn.after_scroll for turn in turns)
    return rows, f"Peak memory of the server {memory:.0f} MiB; {requests:.0f} requests after each scroll."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        large_run(small_run(Path(folder)), run, given.images)
        rows, told = measure(run, given.images)
    text = (
        f"{given.images:,} images of 500 x 375 pixels, two methods, 112 x 112 values a map, a window of 1440 x 1000 "
        "pixels:\n\n" + table(["", "ms, median", "largest"], rows) + f"\n\n{told}"
    )
    print(text)
    if given.markdown:
        replace_section(given.markdown, "run page", text)


if __name__ == "__main__":
    main()
