"""Models of embeddings in the web app: images compared with each other and with texts."""

import base64

import numpy as np
import pytest
from PIL import Image

import deepviz
import small_models


@pytest.fixture
def photos(tmp_path):
    paths = []
    for number in range(2):
        paths.append(tmp_path / f"{number}.png")
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(paths[-1])
    return paths


def compare(photograph, target, method="integrated-gradients"):
    rows = [{"photograph": photograph, "targets": [target]}]
    return {"model": "colours", "rows": rows, "methods": [{"name": method}]}


def values_of(record):
    return np.frombuffer(base64.b64decode(record["map"]["data"]), "<f4")


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_a_pair_is_that_of_explain_pair(serving, photos):
    client = serving(small_models.colours(), photographs=photos)
    ids = [one["id"] for one in client.get("/api/photographs").json()]
    assert client.get("/api/start").json()["job"] is None, "there is nothing that it predicts"
    assert client.get("/api/start").json()["models"][0]["embeds"]
    assert client.get(f"/api/models/colours/photographs/{ids[0]}/predictions").json() == []
    wanted = deepviz.explain_pair(small_models.colours(), *photos, "integrated-gradients")
    for one, other, explanation in zip(ids, reversed(ids), wanted, strict=True):
        job = client.finish(compare(one, f'similarity("{other}")'))
        assert job["state"] == "done", job
        assert job["results"][0]["target"] == f'similarity("{other}")'
        record = client.get(f"/api/results/{job['results'][0]['id']}").json()
        assert record["caption"] == explanation.caption
        assert np.abs(values_of(record) - explanation.values.ravel()).max() <= 1e-6 * explanation.scale.high


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_the_words_of_a_text_are_those_of_explain_text(serving, photos):
    client = serving(small_models.colours(), photographs=photos)
    photograph = client.get("/api/photographs").json()[0]["id"]
    job = client.finish(compare(photograph, 'text("red red blue")'))
    record = client.get(f"/api/results/{job['results'][0]['id']}").json()
    (wanted,) = deepviz.explain_text(small_models.colours(), photos[0], "red red blue", "integrated-gradients")
    assert [tuple(one) for one in record["words"]["values"]] == list(wanted.word_values)
    assert record["words"]["high"] == wanted.scale.high
    report = client.post("/api/report", json={"results": [job["results"][0]["id"]]})
    assert b"red red blue" in report.content
    bad = client.finish(compare(photograph, 'text("purple")'))
    assert bad["state"] == "failed"
    assert "no colour is called purple" in bad["error"]


@pytest.mark.parametrize("named", ['similarity(file("{}"))', 'similarity("{}")', '0.5 * similarity("{}") - logit(1)'])
def test_no_request_names_a_file(serving, photos, named):
    client = serving(small_models.colours(), photographs=photos[:1])
    photograph = client.get("/api/photographs").json()[0]["id"]
    answer = client.post("/api/jobs", json=compare(photograph, named.format(photos[1])))
    assert answer.status_code == 422
    assert "is given by its id, not as a file" in answer.json()["detail"]
    unknown = client.finish(compare(photograph, f'similarity("{"0" * 64}")'))
    assert "image 000000000000 not found" in unknown["error"]


def test_without_a_target_it_says_what_to_choose(serving, photos):
    client = serving(small_models.colours(), photographs=photos)
    asked = compare(client.get("/api/photographs").json()[0]["id"], 0)
    asked["rows"][0]["targets"] = None
    assert "colours embeds images and predicts nothing: choose another image" in client.finish(asked)["error"]


def test_code_names_the_file_that_an_image_is_compared_with(serving, photos):
    client = serving(small_models.colours(), photographs=photos)
    ids = [one["id"] for one in client.get("/api/photographs").json()]
    snippets = client.post("/api/snippets", json={"comparisons": [compare(ids[0], f'similarity("{ids[1]}")')]}).json()
    assert f'similarity("{photos[1]}")' in snippets["python"]
    assert f'similarity("{photos[1]}")' in snippets["command"]
