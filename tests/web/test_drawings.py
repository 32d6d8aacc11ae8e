"""Channels drawn while a page watches: the pictures are the generator's, whatever is done in between."""

import io
import time

import numpy as np
import pytest
import torch
from PIL import Image

import deepviz
import small_models
from deepviz.errors import DeepVizWarning
from deepviz.synthesis import Channel, ImageGenerator
from deepviz.synthesis.generated import as_bytes
from deepviz.web import Limits
from deepviz.web.drawings import Drawing
from deepviz.web.image_store import ImageStore
from deepviz.web.limits import Limits as Bounds
from deepviz.web.model_service import LRUCache, ModelService
from pictures import picture_file

LAYER = "2"


def wanted(**changes):
    return {"model": "small", "layer": LAYER, "channels": [0, 3], "steps": 6, "seed": 5} | changes


def begun(client, **changes):
    answer = client.post("/api/drawings", json=wanted(**changes))
    assert answer.status_code == 202, answer.text
    return answer.json()


def until(client, drawing, *states, step=0):
    """What is told of the drawing once it is in one of these states, and so far."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        told = client.get(f"/api/drawings/{drawing['id']}").json()
        if told["state"] in states and told["step"] >= step:
            return told
        time.sleep(0.01)
    raise AssertionError(f"it does not become {states}: {told['state']}, step {told['step']}")


def paused(client, drawing):
    """What is told of the drawing once it is paused, and the step under way is done."""
    client.post(f"/api/drawings/{drawing['id']}/pause")
    told, before = until(client, drawing, "paused"), None
    while told != before:
        time.sleep(0.5)
        told, before = until(client, drawing, "paused"), told
    return told


def image(client, drawing, channel):
    answer = client.get(f"/api/drawings/{drawing['id']}/channels/{channel}")
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def expected(**options):
    objective = [Channel(LAYER, channel) for channel in (0, 3)]
    made = ImageGenerator(small_models.good(), objective=objective, **{"steps": 6, "seed": 5} | options)()
    return [np.asarray(one) for one in made.images]


def test_the_images_are_those_of_the_generator(client):
    told = until(client, begun(client), "done")
    assert told["step"] == told["steps"] == 6
    assert [one["channel"] for one in told["channels"]] == [0, 3]
    assert all(one["picture"].startswith("data:image/jpeg;base64,") for one in told["channels"])
    assert all(np.isfinite(one["score"]) for one in told["channels"])
    for channel, picture in zip((0, 3), expected(), strict=True):
        assert np.array_equal(image(client, told, channel), picture)


def test_a_pause_changes_nothing_but_the_time(client):
    drawing = begun(client, steps=400)
    assert paused(client, drawing)["step"] < 400
    # the model is free meanwhile
    photograph = client.post("/api/photographs?name=red.png", content=picture_file()).json()["id"]
    assert client.get(f"/api/models/small/photographs/{photograph}/predictions").status_code == 200
    client.post(f"/api/drawings/{drawing['id']}/resume")
    told = until(client, drawing, "done")
    for channel, picture in zip((0, 3), expected(steps=400), strict=True):
        assert np.array_equal(image(client, told, channel), picture)


def test_others_are_answered_while_it_draws(client):
    drawing = begun(client, steps=1000)
    photograph = client.post("/api/photographs?name=red.png", content=picture_file()).json()["id"]
    job = client.finish({"model": "small", "rows": [{"photograph": photograph}], "methods": [{"name": "gradient"}]})
    assert job["state"] == "done"
    assert client.get(f"/api/drawings/{drawing['id']}").json()["state"] == "running", "it was not waited for"
    client.delete(f"/api/drawings/{drawing['id']}")
    assert until(client, drawing, "stopped")["step"] < 1000


def test_the_way_is_told_as_it_comes(client):
    drawing = begun(client, steps=300)
    seen = client.get(f"/api/drawings/{drawing['id']}?after={drawing['version']}").json()
    assert seen["version"] > drawing["version"]
    client.delete(f"/api/drawings/{drawing['id']}")


def test_too_many_are_refused(serving):
    client = serving(limits=Limits(drawings=1))
    first = begun(client, steps=1000)
    answer = client.post("/api/drawings", json=wanted())
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    client.delete(f"/api/drawings/{first['id']}")
    until(client, first, "stopped")
    assert until(client, begun(client), "done")["step"] == 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer": "nowhere"}, "no layer"),
        ({"channels": []}, "channels"),
        ({"channels": list(range(9))}, "9 channels are too many at once, at most 8"),
        ({"channels": [-1]}, "channels"),
        ({"channels": [0, 99]}, "layer '2' has 8 channels, 0 to 7, not 99"),
        ({"layer": "6", "channels": [5]}, "5 channels, 0 to 4, not 5"),
        ({"steps": 0}, "steps"),
        ({"steps": 10**6}, "steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"more": 1}, "more"),
    ],
)
def test_what_cannot_be_drawn(client, changes, said):
    answer = client.post("/api/drawings", json=wanted(**changes))
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


def test_a_pause_shows_the_step_that_it_tells(client):
    drawing = begun(client, steps=1000)
    until(client, drawing, "running", step=2)
    told = paused(client, drawing)
    assert 1 < told["step"] < 1000
    ways = {}
    generator = ImageGenerator(small_models.good(), objective=[Channel(LAYER, k) for k in (0, 3)], steps=1000, seed=5)

    def at_that_step(step):
        if step.number == told["step"]:
            ways["then"] = as_bytes(step.pixels()).numpy()
            raise KeyboardInterrupt  # ends the drawing

    generator(progress=at_that_step)
    for place, channel in enumerate((0, 3)):
        assert np.array_equal(image(client, told, channel), ways["then"][place])
    client.delete(f"/api/drawings/{drawing['id']}")


def test_a_channel_without_a_slope_is_told():
    """It stays the noise that it began with, which is no answer; its neighbours are drawn."""
    limits = Bounds()
    loaded = small_models.good()
    with torch.no_grad():
        loaded.module[2].bias[3] = -100  # never above zero: the ReLU behind it lets nothing through
    service = ModelService("small", loaded, ImageStore(limits, lambda _: None), LRUCache(1), limits)
    objective = [Channel("3", 1), Channel("3", 3)]
    drawing = Drawing("0", service, "3", (1, 3), ImageGenerator(loaded, objective=objective, steps=20))
    with pytest.warns(DeepVizWarning, match="zero gradient at every step"):
        drawing.run()
    assert [one["still"] for one in drawing.status()["channels"]] == [False, True]
    short = Drawing("0", service, "2", (0,), ImageGenerator(loaded, objective=Channel("2", 0), steps=1))
    short.run()
    assert [one["still"] for one in short.status()["channels"]] == [False]


def test_what_fails_on_the_way_is_told():
    limits = Bounds()
    loaded = small_models.good()
    with torch.no_grad():
        loaded.module[0].weight[0, 0, 0, 0] = torch.nan
    service = ModelService("small", loaded, ImageStore(limits, lambda _: None), LRUCache(1), limits)
    drawing = Drawing("0", service, LAYER, (0,), ImageGenerator(loaded, objective=Channel(LAYER, 0), steps=3))
    drawing.run()
    assert drawing.state == "failed"
    assert "NaN" in drawing.error
    assert "bug" not in drawing.error
    assert service._lock.acquire(blocking=False), "the model is free"


def test_unknown_ones(client):
    nowhere = f"/api/drawings/{'0' * 32}"
    for verb, path in [("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"), ("GET", "/channels/0")]:
        assert client.request(verb, nowhere + path).status_code == 404
    assert client.post("/api/drawings", json=wanted(model="other")).status_code == 404
    drawing = begun(client)
    until(client, drawing, "done")
    assert client.get(f"/api/drawings/{drawing['id']}/channels/1").status_code == 404


def test_the_server_ends_while_it_draws(serving):
    client = serving()
    drawing = begun(client, steps=1000)
    state = client.app.state.deepviz
    client.__exit__(None, None, None)
    assert state.drawings.find(drawing["id"]).state == "stopped"
    client.__enter__()


def test_one_that_nobody_asks_for_is_given_up():
    limits = Bounds()
    loaded = small_models.good()
    service = ModelService("small", loaded, ImageStore(limits, lambda _: None), LRUCache(1), limits)
    generator = ImageGenerator(loaded, objective=Channel(LAYER, 0), steps=1000)
    drawing = Drawing("0", service, LAYER, (0,), generator, patience=0.05)
    drawing.pause()
    drawing.run()
    assert drawing.state == "stopped"
    assert service._lock.acquire(blocking=False), "the model is free"


def test_a_bug_is_told(monkeypatch):
    limits = Bounds()
    loaded = small_models.good()
    service = ModelService("small", loaded, ImageStore(limits, lambda _: None), LRUCache(1), limits)
    generator = ImageGenerator(loaded, objective=Channel(LAYER, 0), steps=3)
    monkeypatch.setattr(deepviz.web.drawings, "as_bytes", lambda _: 1 / 0)
    drawing = Drawing("0", service, LAYER, (0,), generator)
    drawing.run()
    assert (drawing.state, "this is a bug" in drawing.error) == ("failed", True)
    assert service._lock.acquire(blocking=False), "the model is free"
