"""The checks of maps: routes, and that the numbers are those of the metrics."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

import deepviz
import small_models
from deepviz.metrics import RandomMap
from deepviz.metrics.bootstrap import interval
from deepviz.models import Preprocess, load_model
from deepviz.results.dependence import MEANING, dependence
from deepviz.runs.checks import METRICS, STEPS, checked
from deepviz.runs.verdicts import remember
from deepviz.web.trust import Retained, verdict_on
from pictures import picture_file


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def comparison(photograph, *methods, model="small"):
    forms = [{"name": method} for method in methods]
    return {"model": model, "rows": [{"photograph": photograph}], "methods": forms}


@pytest.fixture
def explained(client, photograph):
    """From a method's name to the id of its map."""

    def explain(method, **options):
        job = client.finish(comparison(photograph, method, **options))
        assert job["state"] == "done", job
        return job["results"][0]["id"]

    return explain


def check(client, *results):
    return client.finish({"results": list(results)}, "/api/checks")


def pixels(address):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"))


@pytest.mark.parametrize("method", ["gradient", "integrated-gradients", "grad-cam"])
def test_the_curves_are_those_of_the_metrics(client, explained, method):
    result = explained(method)
    assert check(client, result)["state"] == "done"
    found = client.get(f"/api/results/{result}/checks/curves").json()
    loaded = small_models.good()
    prepared = loaded.prepare(Image.open(io.BytesIO(picture_file())))
    x = prepared.x[None]
    maps = deepviz.catalog.method(method)(loaded.module, x)
    chance = RandomMap()(loaded.module, x)
    for name, metric in METRICS.items():
        channels = "magnitude" if method == "gradient" else "sum"
        metric = type(metric)(steps=STEPS, channels=channels)
        points = metric.curve(loaded.module, x, maps)[0]
        assert found["curves"][name]["points"] == pytest.approx(points.tolist(), abs=1e-5)
        assert found["curves"][name]["area"] == pytest.approx(float(metric(loaded.module, x, maps)[0]), abs=1e-5)
        assert found["curves"][name]["chance"]["area"] == pytest.approx(
            float(type(metric)(steps=STEPS)(loaded.module, x, chance)[0]), abs=1e-5
        )


def test_the_pictures_give_the_input_of_every_point(client, explained):
    """What the page draws at a point of the curve is what the model was given there."""
    result = explained("gradient")
    check(client, result)
    found = client.get(f"/api/results/{result}/checks/curves").json()
    width, height = found["size"]
    when = np.frombuffer(base64.b64decode(found["when"]), np.uint8).reshape(height, width)
    assert set(np.unique(when)) == set(range(1, STEPS + 1))
    loaded = small_models.good()
    x = loaded.prepare(Image.open(io.BytesIO(picture_file()))).x
    before, gone = pixels(found["picture"]), pixels(found["start"]["deletion"])
    assert before.shape == (height, width, 3)
    assert np.array_equal(before, np.asarray(loaded.prepare(x).photo))
    target = client.get(f"/api/results/{result}").json()["target"]["index"]
    for step in (3, 11):
        drawn = np.where((when <= step)[..., None], gone, before)
        given = loaded.preprocess.normalise(torch.from_numpy(drawn.copy()).permute(2, 0, 1) / 255)
        with torch.no_grad():
            p = torch.softmax(loaded.module(given[None]), 1)[0, target]
        assert float(p) == pytest.approx(found["curves"]["deletion"]["points"][step], abs=0.02)


def test_the_strip_is_what_sanity_finds(client, explained):
    result = explained("gradient")
    check(client, result)
    found = client.get(f"/api/results/{result}/checks/strip").json()
    loaded = small_models.good()
    picture = Image.open(io.BytesIO(picture_file()))
    sanity = deepviz.sanity_check(loaded, picture, "gradient", stages=4)
    kept = sanity.similarities["absolute-spearman"][0, 0]
    assert [one["similarity"] for one in found["stages"]] == pytest.approx(kept.tolist(), abs=1e-6)
    assert [one["share"] for one in found["stages"]] == pytest.approx(list(sanity.shares))
    assert all(pixels(one["picture"]).size for one in found["stages"])


def verdicts(client, *results):
    answer = client.post("/api/verdicts", json={"results": list(results)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_one_image_is_no_verdict(client, explained):
    result = explained("gradient")
    assert verdicts(client, result) == [], "nothing is checked yet"
    check(client, result)
    strip = client.get(f"/api/results/{result}/checks/strip").json()
    assert "depend" not in str({key: value for key, value in strip.items() if key != "stages"})
    (found,) = verdicts(client, result)
    assert (found["images"], found["grade"], found["badge"]) == (1, None, "No verdict")
    assert found["all"] == {"mean": pytest.approx(strip["stages"][-1]["similarity"])}, "no interval either"
    assert "at least 8 images" in found["said"]


def test_the_verdict_of_several_images_is_that_of_their_interval(serving):
    """Eight images: mean and interval are those of the sanity check, and the verdict holds over the whole interval."""
    client = serving(small_models.good())
    files = [picture_file((40 + 5 * n, 40 + 3 * n)) for n in range(8)]
    ids = [client.post(f"/api/photographs?name={n}.png", content=file).json()["id"] for n, file in enumerate(files)]
    results = [client.finish(comparison(one, "gradient"))["results"][0]["id"] for one in ids]
    check(client, *results)
    (found,) = verdicts(client, *results)
    pictures = [Image.open(io.BytesIO(file)) for file in files]
    sanity = deepviz.sanity_check(small_models.good(), pictures, "gradient", stages=4)
    whole = sanity.similarities["absolute-spearman"][:, 0, -1]
    assert found["images"] == 8
    low, high = interval(whole)
    assert found["all"] == pytest.approx({"mean": whole.mean(), "low": low, "high": high}, abs=1e-6)
    half, whole = found["half"] or {}, found["all"]
    ends = {dependence(half.get(end, float("nan")), whole[end]) for end in ("low", "high")}
    assert found["grade"] == (ends.pop() if len(ends) == 1 else None)
    few = verdicts(client, *results[:7])[0]
    assert few["grade"] is None
    assert "at least 8 images" in few["said"]


def kept(*pairs):
    return [[Retained(half, whole)] for half, whole in pairs]


def test_an_interval_over_a_threshold_is_no_verdict():
    clear = verdict_on(kept(*8 * [(0.1, 0.05)]))
    assert (clear["grade"], clear["badge"]) == ("full", "Depends on the weights")
    assert clear["said"] == MEANING["full"]
    open_ended = verdict_on(kept(*4 * [(0.1, 0.05)], *4 * [(0.95, 0.9)]))
    assert open_ended["grade"] is None
    assert open_ended["all"]["low"] < 0.5 < open_ended["all"]["high"]
    assert "takes more images" in open_ended["said"]


def test_maps_that_are_blank_are_no_images_of_a_verdict():
    nan = float("nan")
    assert verdict_on(kept(*8 * [(nan, nan)]))["said"] == "nothing to compare"
    some = verdict_on(kept(*7 * [(0.1, 0.05)], (nan, nan)))
    assert some["images"] == 7
    assert "1 of 8 images left out" in some["said"]
    assert verdict_on(kept(*8 * [(nan, 0.1)]))["grade"] == "unknown"


def test_several_classes_of_an_image_are_one_image():
    found = verdict_on([[Retained(0.2, 0.0), Retained(0.4, 0.2)]])
    assert (found["images"], found["all"]) == (1, {"mean": pytest.approx(0.1)})


def test_what_sanity_found_on_more_images_is_the_verdict(client, explained):
    """With its interval, and said to be found there: the same words as the sanity check's own."""
    loaded = small_models.good()
    pictures = [Image.open(io.BytesIO(picture_file((40 + 5 * n, 40 + 3 * n)))) for n in range(8)]
    sanity = deepviz.sanity_check(loaded, pictures, "gradient")
    remember(sanity)
    result = explained("gradient")
    check(client, result)
    (found,) = verdicts(client, result)
    assert found["images"] == 8
    low, high = interval(sanity.similarities["absolute-spearman"][:, 0, -1])
    assert found["all"]["low"] == pytest.approx(low, abs=1e-4)
    assert found["all"]["high"] == pytest.approx(high, abs=1e-4)
    assert found["said"].endswith("(found by deepviz sanity on 8 images)")
    meaning = found["said"].removesuffix(" (found by deepviz sanity on 8 images)")
    assert sanity.verdicts["Gradient"].endswith(meaning)
    (explanation,) = deepviz.explain(loaded, pictures[0], "gradient")
    (one,) = checked(loaded, loaded.prepare(pictures[0]), [explanation])
    assert f"{meaning} (8 images)" in one.notes["checks"]["in words"]


def test_maps_that_are_anticorrelated_are_unrelated():
    found = verdict_on(kept(*8 * [(-0.2, -0.37)]))
    assert found["said"] == f"unrelated to the original map with random layers: {MEANING['full']}"


def test_what_another_photograph_said_is_not_said_of_this_one(client, explained):
    """One image's numbers are remembered for the command line, and are no verdict on another."""
    other = Image.radial_gradient("L").convert("RGB")
    remember(deepviz.sanity_check(small_models.good(), other, "gradient"))
    result = explained("gradient")
    check(client, result)
    stages = client.get(f"/api/results/{result}/checks/strip").json()["stages"]
    (found,) = verdicts(client, result)
    assert found["all"]["mean"] == pytest.approx(stages[-1]["similarity"])
    assert "sanity" not in found["said"]


def test_checks_are_found_once(client, explained):
    result = explained("gradient")
    first = check(client, result)
    assert [one["part"] for one in first["results"]] == ["curves", "strip"]
    again = client.post("/api/checks", json={"results": [result]}).json()
    assert again["state"] == "done", "nothing is left to do"


def test_a_part_that_was_not_asked_for(client, explained):
    answer = client.get(f"/api/results/{explained('gradient')}/checks/curves")
    assert answer.status_code == 404
    assert "check again" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/api/results/{'0' * 64}/checks/curves", 404),
        (f"/api/results/{'0' * 64}/checks/other", 422),
        ("/api/results/..%2f..%2fetc/checks/curves", 404),
        ("/api/results/%00/checks/strip", 422),
    ],
)
def test_refused(client, path, status):
    assert client.get(path).status_code == status


@pytest.mark.parametrize("body", [{"results": []}, {"results": ["x"]}, {"results": ["0" * 64] * 65}, {}])
def test_refused_lists(client, body):
    assert client.post("/api/checks", json=body).status_code == 422


def test_unknown_results(client):
    assert client.post("/api/checks", json={"results": ["0" * 64]}).status_code == 404


def test_maps_of_two_models_are_checked_one_model_at_a_time(serving):
    client = serving(small_models.good(), small_models.good())
    photograph = client.post("/api/photographs?name=red.png", content=picture_file()).json()["id"]
    models = [one["id"] for one in client.get("/api/models").json()]
    ids = [client.finish(comparison(photograph, "gradient", model=model))["results"][0]["id"] for model in models]
    answer = client.post("/api/checks", json={"results": ids})
    assert answer.status_code == 422
    assert "several models" in answer.json()["detail"]


def test_a_network_whose_random_copy_gives_no_number(serving):
    """One map that cannot be checked is told in words, and the job goes on."""

    class Overflowing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(3 * 8 * 8, 4)
            torch.nn.init.zeros_(self.head.weight)
            self.head.weight.data[:, :3] = 1e-3

        def forward(self, x):
            return torch.exp(1e4 * (self.head(x.flatten(1)) - self.head.bias))

    loaded = load_model(Overflowing(), preprocess=Preprocess(8))
    client = serving(loaded)
    photograph = client.post("/api/photographs?name=red.png", content=picture_file()).json()["id"]
    model = client.get("/api/models").json()[0]["id"]
    job = client.finish(comparison(photograph, "gradient", model=model))
    if job["state"] == "failed":
        pytest.fail(job["error"])
    result = job["results"][0]["id"]
    assert check(client, result)["state"] == "done"
    assert "error" in client.get(f"/api/results/{result}/checks/strip").json()
    assert "curves" in client.get(f"/api/results/{result}/checks/curves").json()
