"""What each address answers, with a network small enough to check against."""

import base64
import io
import shlex
import threading
import time

import numpy as np
import pytest
from PIL import Image
from torch import nn

import deepviz
import small_models
from deepviz import catalog
from deepviz.inside import viz_activations
from deepviz.methods import GradCAM, Gradient
from deepviz.models import LoadedModel
from deepviz.results.storage import load_explanations
from deepviz.web import Limits
from deepviz.web.app import PATIENCE
from pictures import picture_file

CHEAP = [{"name": "gradient"}, {"name": "grad-cam"}]


def compare(photograph, methods=CHEAP, targets=None, model="small", layer=None):
    return {
        "model": model,
        "rows": [{"photograph": photograph, "targets": targets}],
        "methods": methods,
        "layer": layer,
    }


def uploaded(client, count=1):
    """The ids of photographs of different colours."""
    colours = [(n, 0, 0) for n in range(count)]
    return [client.post("/api/photographs", content=picture_file(colour=colour)).json()["id"] for colour in colours]


class Slow(nn.Module):
    """Answers when it is let."""

    def __init__(self):
        super().__init__()
        self.body = small_models.network()
        self.let = threading.Event()
        self.inside = 0
        self.most = 0
        self.counting = threading.Lock()

    def forward(self, x):
        with self.counting:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.let.wait(10)
        answer = self.body(x)
        with self.counting:
            self.inside -= 1
        return answer


def slow():
    module = Slow().eval()
    return LoadedModel(module, "slow", small_models.PREPROCESS, small_models.LABELS), module


def test_a_page_is_told_how_to_open(client):
    start = client.get("/api/start").json()
    assert [model["id"] for model in start["models"]] == ["small"]
    assert len(start["photographs"]) == 2
    assert set(start["methods"]) <= set(catalog.METHODS)
    for _ in range(300):
        job = client.get(f"/api/jobs/{start['job']}").json()
        if job["state"] == "done":
            break
        time.sleep(0.02)
    assert job["done"] == job["total"] == 8
    assert {one["photograph"] for one in job["results"]} == set(start["photographs"])


def test_the_page_and_its_parts_are_there(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for address in ("static/app.js", "static/app.css", "viewer/viewer.js", "viewer/viewer.css"):
        part = client.get(f"/{address}")
        assert part.status_code == 200
        assert ("javascript" if address.endswith("js") else "css") in part.headers["content-type"]
    assert client.post("/").status_code == 405
    assert client.get("/static/index.html").status_code == 404


def test_no_address_in_the_page_is_absolute_or_of_another_place(client):
    """So that it works behind any path, and asks nobody else."""
    parts = [route.path for route in client.app.routes if route.path.startswith(("/static/", "/viewer/"))]
    for path in ["/", *parts]:
        text = client.get(path).text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path
        assert "https://" not in text, path
        for word in ('src="/', 'href="/', 'from "/', "fetch(`/", 'fetch("/', "style="):
            assert word not in text, (path, word)


def test_predictions_are_those_of_the_model(client, photograph):
    told = client.get(f"/api/models/small/photographs/{photograph}/predictions").json()
    photo = Image.open(io.BytesIO(picture_file()))
    expected = deepviz.explain(small_models.good(), photo, Gradient(), top_k=5)
    assert [one["index"] for one in told] == [one.target.index for one in expected]
    assert [one["label"] for one in told] == [one.target.label for one in expected]
    np.testing.assert_allclose(
        [one["probability"] for one in told], [one.target.probability for one in expected], rtol=1e-5
    )


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_a_job_gives_the_maps_that_python_gives(client, photograph):
    job = client.finish(compare(photograph, targets=[3, 1]))
    assert (job["state"], job["done"], job["left_out"]) == ("done", 2, [])
    places = [(one["column"], one["target"]) for one in job["results"]]
    assert places == [(0, 3), (0, 1), (1, 3), (1, 1)]
    photo = Image.open(io.BytesIO(picture_file()))
    expected = {
        (column, one.target.index): one
        for column, method in enumerate([Gradient(), GradCAM()])
        for one in deepviz.explain(small_models.good(), photo, method, target=[3, 1])
    }
    for one in job["results"]:
        record = client.get(f"/api/results/{one['id']}").json()
        wanted = expected[one["column"], one["target"]]
        stored = record["map"]
        values = np.frombuffer(base64.b64decode(stored["data"]), "<f4").reshape(stored["size"][::-1])
        np.testing.assert_allclose(values, wanted.values, rtol=1e-4, atol=1e-7)
        assert record["target"]["index"] == one["target"]


def test_why_one_class_and_not_another(client, photograph):
    asked = ["logit(3) - logit(1)", 1, "ant", 'logit(3) - label("bee")', 'channel("0", 2)']
    labels = client.get("/api/models/small/labels").json()
    asked[2], asked[3] = labels[1], f'logit(3) - "{labels[1]}"'
    found = client.finish(compare(photograph, [{"name": "gradient"}], targets=asked))["results"]
    assert [one["target"] for one in found] == ["logit(3) - logit(1)", 1, 'channel("0", 2)']
    assert len({one["id"] for one in found}) == 3
    again = client.finish(compare(photograph, [{"name": "gradient"}], targets=["logit(3) - logit(1)"]))["results"]
    assert again[0]["id"] == found[0]["id"]
    code = client.post("/api/snippets", json={"comparisons": [compare(photograph, targets=asked[:2])]}).json()
    difference = f"{labels[3]} - {labels[1]}"
    assert f"target={[difference, labels[1]]!r}" in code["python"]
    assert shlex.join(["--target", difference, "--target", labels[1]]) in code["command"]
    for wrong, words in (("no such class", "no class named"), ("direction(3)", "holds a tensor"), ("-1", "0 up")):
        answer = client.post("/api/jobs", json=compare(photograph, targets=[wrong]))
        assert answer.status_code == 422
        assert words in answer.json()["detail"]


def test_no_targets_are_the_predicted_class(client, photograph):
    best = client.get(f"/api/models/small/photographs/{photograph}/predictions").json()[0]["index"]
    assert [one["target"] for one in client.finish(compare(photograph))["results"]] == [best, best]


def test_what_was_computed_is_not_computed_again(serving):
    loaded, module = slow()
    module.let.set()
    client = serving(loaded)
    (photograph,) = uploaded(client)
    body = compare(photograph, targets=[1], model="slow")
    first = client.finish(body)
    module.let.clear()  # now it would wait
    again = client.post("/api/jobs", json=body).json()
    module.let.set()
    assert again["state"] == "done"
    assert again["results"] == first["results"]


def test_the_layer_changes_the_map_of_layer_methods_alone(client, photograph):
    default = client.finish(compare(photograph, targets=[1]))["results"]
    deeper = client.finish(compare(photograph, targets=[1], layer="0"))["results"]
    assert default[0] == deeper[0]
    assert default[1]["id"] != deeper[1]["id"]
    assert client.get(f"/api/results/{deeper[1]['id']}").json()["layer"] == "0"


def test_methods_that_do_not_apply_are_told_with_the_reason(serving):
    client = serving(small_models.no_rectifier(), small_models.no_map())
    smooth = {one["name"]: one["reason"] for one in client.get("/api/models/small/methods").json()}
    assert "rectifier" in smooth["guided-backprop"]
    assert smooth["gradient"] == smooth["grad-cam"] == ""
    flat = {one["name"]: one["reason"] for one in client.get("/api/models/small-2/methods").json()}
    assert flat["grad-cam"]
    assert flat["guided-backprop"] == ""
    (photograph,) = uploaded(client)
    job = client.finish(compare(photograph, [{"name": "guided-backprop"}, {"name": "gradient"}]))
    assert job["state"] == "done"
    assert [one["column"] for one in job["left_out"]] == [0]
    assert [one["column"] for one in job["results"]] == [1]


def test_layers_are_those_of_the_listing(client):
    told = client.get("/api/models/small/layers").json()
    assert [row["layer"] for row in told["layers"] if row["usable"]] == ["0", "1", "2", "3"]
    assert told["default"] == "3"


def test_activations_of_a_layer(client, photograph):
    told = client.get(f"/api/models/small/photographs/{photograph}/activations?layer=2").json()
    assert told["channels"] == 8
    assert told["grid"] == [16, 16]
    strengths = [one["strength"] for one in told["shown"]]
    assert strengths == sorted(strengths, reverse=True)
    assert all(one["picture"].startswith("data:image/jpeg;base64,") for one in told["shown"])


def test_any_channel_and_those_after_the_strongest(serving):
    wide = small_models.seeded(nn.Sequential(nn.Conv2d(3, 40, 3), nn.Flatten(), nn.Linear(36000, 4)))
    client = serving(LoadedModel(wide, "wide", small_models.PREPROCESS))
    (photograph,) = uploaded(client)
    path = f"/api/models/wide/photographs/{photograph}/activations?layer=0"
    pages = [client.get(f"{path}&first={first}").json()["shown"] for first in (0, 16, 32, 48)]
    assert [len(one) for one in pages] == [16, 16, 8, 0]
    assert {one["channel"] for page in pages for one in page} == set(range(40)), "each once"
    (one,) = client.get(f"{path}&channel=39&size=500").json()["shown"]
    assert one["channel"] == 39
    assert one["strength"] == next(each["strength"] for page in pages for each in page if each["channel"] == 39)
    assert client.get(f"{path}&channel=40").status_code == 422
    assert "has 40, 0 to 39" in client.get(f"{path}&channel=40").json()["detail"]


def test_the_largest_activation_of_a_channel_in_each_image(client):
    files = [picture_file((40, 40), colour=(number, 90, 200 - number)) for number in (10, 150)]
    ids = [client.post("/api/photographs?name=x.png", content=file).json()["id"] for file in files]
    body = {"layer": "2", "channel": 3, "photographs": ids}
    found = client.post("/api/models/small/peaks", json=body).json()
    pictures = [Image.open(io.BytesIO(file)) for file in files]
    expected = [float(viz_activations(small_models.good(), one, "2").maps[3].max()) for one in pictures]
    assert [one["photograph"] for one in found] == ids
    assert [one["peak"] for one in found] == pytest.approx(expected, abs=1e-6)
    assert client.post("/api/models/small/peaks", json={**body, "channel": 8}).status_code == 422
    assert client.post("/api/models/small/peaks", json={**body, "layer": "none"}).status_code == 422
    assert client.post("/api/models/small/peaks", json={**body, "photographs": ["0" * 64]}).status_code == 404
    assert client.post("/api/models/small/peaks", json={**body, "photographs": 17 * ids[:1]}).status_code == 422


def test_a_list_that_is_too_long_says_how_to_shorten_it(client, photograph):
    answer = client.post("/api/report", json={"results": 257 * ["0" * 64]})
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        "257 maps are too many at once, at most 256 are possible: compare fewer images, classes or methods"
    )
    rows = 18 * [{"photograph": photograph, "targets": [0, 1, 2, 3, 4]}]
    answer = client.post("/api/jobs", json={"model": "small", "rows": rows, "methods": 3 * CHEAP[:1]})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("270 maps are too many at once, at most 256 are possible")


def test_code_for_many_images_can_be_copied(client, photograph):
    rows = 40 * [{"photograph": photograph, "targets": None}]
    asked = {"comparisons": [{"model": "small", "rows": rows, "methods": CHEAP}]}
    answer = client.post("/api/snippets", json=asked)
    assert answer.status_code == 200, answer.text
    assert answer.json()["python"].count("red.png") == 40


def test_a_large_completeness_gap_has_a_remedy(client, photograph):
    """In the page's words, with the option that mends it."""

    def asked(**options):
        form = {"name": "integrated-gradients", "options": options}
        job = client.finish(compare(photograph, [form]))
        return client.get(f"/api/results/{job['results'][0]['id']}").json()

    poor = asked(steps="1")
    gap = float(dict(poor["notes"])["completeness gap"])
    assert gap > 0.05
    (said,) = poor["warnings"]
    assert said.startswith("The sum of this map's values misses the change of the score by")
    assert poor["remedy"] == {"option": "steps", "value": "4", "title": "Use 4 steps"}
    good = asked(steps="500")
    assert float(dict(good["notes"])["completeness gap"]) < 0.05
    assert good["warnings"] == []
    assert "remedy" not in good


def test_labels(serving):
    client = serving(small_models.good(), LoadedModel(small_models.network(), "bare", small_models.PREPROCESS))
    assert client.get("/api/models/small/labels").json() == list(small_models.LABELS)
    assert client.get("/api/models/bare/labels").json() == []


@pytest.mark.parametrize(
    "model",
    [small_models.failing, small_models.nan_output, small_models.no_class_scores, small_models.without_preprocessing],
)
def test_a_model_that_fails_is_told_and_the_server_lives(serving, model):
    loaded = model()
    loaded = loaded if isinstance(loaded, LoadedModel) else LoadedModel(loaded, "small")
    client = serving(loaded)
    (photograph,) = uploaded(client)
    answer = client.get(f"/api/models/small/photographs/{photograph}/predictions")
    assert answer.status_code == 422
    assert "\n" not in answer.json()["detail"]
    job = client.finish(compare(photograph))
    assert job["state"] == "failed"
    assert job["error"]
    for path in ("methods", "layers", "labels"):
        assert client.get(f"/api/models/small/{path}").status_code in (200, 422)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"rows": []},
        {"rows": [{"photograph": "0" * 64}]},
        {"rows": [{"photograph": "../x"}]},
        {"rows": [{"photograph": "0" * 64, "targets": []}]},
        {"rows": [{"photograph": "0" * 64, "targets": [-1]}]},
        {"methods": []},
        {"methods": [{"name": "nothing"}]},
        {"methods": [{"name": "gradient", "more": 1}]},
        {"methods": [{"name": "smooth-grad", "options": {"samples": "1"}}]},
        {"layer": ""},
        {"more": 1},
    ],
)
def test_a_comparison_that_cannot_be_is_refused(client, photograph, change):
    answer = client.post("/api/jobs", json={**compare(photograph), **change})
    assert answer.status_code in (404, 422)
    assert "\n" not in answer.json()["detail"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[" * 50_000,
        b'{"model": NaN}',
        b'{"model": "\\ud800"}',
        b"\xff\xfe",
        b'{"rows": 1' + b"0" * 5000 + b"}",
        b'{"a": Infinity, "rows": [{"photograph": NaN}]}',
    ],
)
def test_a_body_that_is_no_comparison_is_refused(client, content):
    answer = client.post("/api/jobs", content=content, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert answer.json()["detail"]


@pytest.mark.parametrize("layer", ["nothing", "5", "\ud800", "a\0b", "é" * 300])
def test_a_layer_that_there_is_not(client, photograph, layer):
    job = client.finish({**compare(photograph), "layer": layer}) if layer.isprintable() else None
    if job is not None:
        assert job["state"] == "failed" or job["left_out"]


def test_a_class_that_there_is_not(client, photograph):
    job = client.finish(compare(photograph, targets=[5]))
    assert job["state"] == "failed"
    assert "out of range" in job["error"]


def test_too_many_maps_in_one_job(serving):
    client = serving(limits=Limits(cells=3))
    (photograph,) = uploaded(client)
    assert client.post("/api/jobs", json=compare(photograph, targets=[0, 1])).status_code == 422
    assert client.finish(compare(photograph, targets=[0]))["state"] == "done"


def test_the_queue_is_bounded_and_a_job_can_be_cancelled(serving):
    loaded, module = slow()
    client = serving(loaded, photographs=[], limits=Limits(queued=2))
    photographs = [
        client.post("/api/photographs", content=picture_file(colour=(n, 0, 0))).json()["id"] for n in range(6)
    ]
    answers = []
    for photograph in photographs:
        answers.append(client.post("/api/jobs", json=compare(photograph, targets=[1], model="slow")))
        time.sleep(0.05)  # the first is taken out of the queue
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429, 429, 429]
    assert answers[-1].headers["retry-after"] == "1"
    second = answers[1].json()["id"]
    assert client.delete(f"/api/jobs/{second}").json()["state"] == "cancelled"
    module.let.set()
    for _ in range(300):
        states = [client.get(f"/api/jobs/{answer.json()['id']}").json()["state"] for answer in answers[:3]]
        if states[0] == states[2] == "done":
            break
        time.sleep(0.02)
    assert states == ["done", "cancelled", "done"]
    assert client.get(f"/api/jobs/{second}").json()["results"] == []
    assert module.most == 1, "one thing at a time with a model"


def test_waiting_requests_are_bounded(serving):
    loaded, module = slow()
    client = serving(loaded, photographs=[], limits=Limits(waiting=2))
    photographs = [
        client.post("/api/photographs", content=picture_file(colour=(n, 0, 0))).json()["id"] for n in range(5)
    ]
    codes = []

    def ask(photograph):
        codes.append(client.get(f"/api/models/slow/photographs/{photograph}/predictions").status_code)

    threads = [threading.Thread(target=ask, args=(photograph,)) for photograph in photographs]
    for thread in threads:
        thread.start()
    for _ in range(200):
        if len(codes) == 3:
            break
        time.sleep(0.02)
    module.let.set()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200, 200, 429, 429, 429]


def test_a_watcher_is_told_as_soon_as_there_is_news(serving):
    loaded, module = slow()
    client = serving(loaded, photographs=[])
    (photograph,) = uploaded(client)
    job = client.post("/api/jobs", json=compare(photograph, targets=[1], model="slow")).json()
    while job["state"] == "queued":
        job = client.get(f"/api/jobs/{job['id']}").json()
    while job["version"] < 2:  # it is at the first map now, which waits
        job = client.get(f"/api/jobs/{job['id']}").json()
    start = time.monotonic()
    threading.Timer(0.3, module.let.set).start()
    later = client.get(f"/api/jobs/{job['id']}?after={job['version']}").json()
    assert later["version"] > job["version"]
    assert 0.2 < time.monotonic() - start < PATIENCE, "it waited for the news, and no longer"


def test_results_are_forgotten_least_recently_used_first(serving):
    one_map = 3 * 32 * 32 * 4 + 4096
    client = serving(photographs=[], limits=Limits(results_bytes=2 * one_map))
    (photograph,) = uploaded(client)
    ids = [
        client.finish(compare(photograph, [{"name": "gradient"}], targets=[target]))["results"][0]["id"]
        for target in range(3)
    ]
    assert [client.get(f"/api/results/{one}").status_code for one in ids] == [404, 200, 200]
    again = client.finish(compare(photograph, [{"name": "gradient"}], targets=[0]))["results"]
    assert again[0]["id"] == ids[0]
    assert client.get(f"/api/results/{ids[0]}").status_code == 200


def test_what_is_taken_away(client, photograph, tmp_path):
    results = [one["id"] for one in client.finish(compare(photograph, targets=[1, 2]))["results"]]
    page = client.post("/api/report", json={"results": results})
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-disposition"].startswith("attachment")
    assert "red.png" in page.text
    picture = client.post("/api/sheet", json={"results": results})
    assert Image.open(io.BytesIO(picture.content)).format == "PNG"
    data = client.post("/api/data", json={"results": results})
    (tmp_path / "a.deepviz").write_bytes(data.content)
    loaded = load_explanations(tmp_path / "a.deepviz")
    assert [one.target.index for one in loaded] == [1, 2, 1, 2]
    for path in ("report", "sheet", "data"):
        assert client.post(f"/api/{path}", json={"results": ["0" * 64]}).status_code == 404


def test_one_bad_class_does_not_cost_the_others(client, photograph):
    """Each class of each photograph is told by itself; a job of which nothing comes has failed."""
    job = client.finish(compare(photograph, [{"name": "gradient"}, {"name": "grad-cam"}], targets=[2, 99, 1]))
    assert job["state"] == "done"
    assert sorted((one["column"], one["target"]) for one in job["results"]) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert [(one["column"], one["target"]) for one in job["failures"]] == [(0, 99), (1, 99)]
    assert all("out of range" in one["reason"] for one in job["failures"])
    job = client.finish(compare(photograph, [{"name": "gradient"}], targets=[99]))
    assert (job["state"], "out of range" in job["error"]) == ("failed", True)


def test_the_example_photographs_are_named_in_code(client):
    first = client.get("/api/start").json()["photographs"][0]
    body = {"comparisons": [compare(first, [{"name": "gradient"}])]}
    assert 'deepviz.example_photo("chelsea")' in client.post("/api/snippets", json=body).json()["python"]


def test_snippets(client, photograph):
    body = compare(photograph, [{"name": "smooth-grad", "options": {"samples": "3"}}], targets=[2])
    told = client.post("/api/snippets", json={"comparisons": [body]}).json()
    assert "SmoothGrad(samples=3)" in told["python"]
    name = client.get("/api/models/small/labels").json()[2]
    assert f"-m 'smooth-grad(samples=3)' {shlex.join(['--target', name])}" in told["command"]


def test_a_description_of_the_api_is_there_but_no_page_from_elsewhere(client):
    assert client.get("/api/openapi.json").json()["info"]["title"] == "DeepViz"
    assert client.get("/docs").status_code == 404
    assert client.get("/redoc").status_code == 404


def test_the_probability_of_every_class(client, photograph):
    """Those of the predictions, and they sum to one."""
    found = client.get(f"/api/models/small/photographs/{photograph}/probabilities").json()
    best = client.get(f"/api/models/small/photographs/{photograph}/predictions").json()
    assert sum(found) == pytest.approx(1, abs=1e-4)
    assert [found[one["index"]] for one in best] == pytest.approx([one["probability"] for one in best], abs=1e-5)
