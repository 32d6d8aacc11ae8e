"""The page of a checkpoint of one's own, with two thousand images."""

import re
import shutil
import signal

import pytest
from PIL import Image

from browser import Visit
from journeys.conftest import ANIMALS


@pytest.fixture
def served(own_model):
    """Starts `deepviz serve`, and gives its link; Ctrl-C at the end, which it takes without a complaint."""
    running = []

    def start(*arguments):
        process = own_model.started("serve", "--no-browser", "--port", "0", *arguments)
        running.append(process)
        for line in process.stdout:
            if link := re.search(r"http://\S+", line):
                return link[0]
        raise AssertionError(process.stderr.read())

    yield start
    for process in running:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        assert process.returncode in (0, 130)


def test_a_folder_of_two_thousand_images_and_a_model_of_five_classes(own_model, served, chromium):
    many = own_model / "photos"
    many.mkdir()
    for number in range(1999):
        Image.new("RGB", (16, 12), (number % 256, number // 8 % 256, 90)).save(many / f"tiny {number:04}.png")
    shutil.copy(own_model / "cat.png", many / "zoe the cat.png")
    model = ["--model", "timm:tf_efficientnet_lite0", "--weights", "animals5.pt", "--labels", "classes.txt"]
    link = served("--photos", "photos", *model, "--name", "animals v3")
    page = Visit(chromium, link, viewport={"width": 1440, "height": 900})
    ui = page.page
    page.drawn(8, seconds=120)
    assert ui.locator("#photographs-of").inner_text() == "2 of 2000"
    assert "animals v3" in ui.inner_text("body")
    ui.fill("#find-photograph", "zoe")
    ui.locator(".photograph").click()
    page.drawn(12, seconds=120)
    assert any(caption.startswith("Grad-CAM") for caption in page.captions())
    assert set(ANIMALS) & set(re.findall(r"\w+", ui.inner_text("#classes"))) == set(ANIMALS)
    row = ui.locator(".dv-row").last
    assert "zoe the cat.png" in row.inner_text()
    assert re.search(r"cat\s+99", row.inner_text())
    copied = ui.evaluate("location.href")
    assert "token" not in copied
    page.close()
