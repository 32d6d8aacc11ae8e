"""Maps that are estimated from many passes: shown while they are computed, and stopped in the middle."""

import base64
import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

import deepviz
import small_models
from deepviz.methods import RISE
from deepviz.web import jobs
from deepviz.web.forms import MOST_PASSES

LONG = {"name": "rise", "options": {"max_passes": str(MOST_PASSES)}}


def compare(photograph, *methods, targets=(1,)):
    rows = [{"photograph": photograph, "targets": list(targets)}]
    return {"model": "small", "rows": rows, "methods": list(methods), "layer": None}


def values(record):
    width, height = record["map"]["size"]
    return np.frombuffer(base64.b64decode(record["map"]["data"]), "<f4").reshape(height, width)


def picture(client, photograph):
    return Image.open(io.BytesIO(client.get(f"/api/photographs/{photograph}?size=2048").content))


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(jobs, "BETWEEN", 0.05)


def news(client, job, until):
    """The first status of a job of which `until` holds."""
    end = time.monotonic() + 60
    while not until(job):
        assert time.monotonic() < end
        assert job["state"] in ("queued", "running"), job
        job = client.get(f"/api/jobs/{job['id']}?after={job['version']}").json()
    return job


def test_a_map_sharpens_while_it_is_watched(client, photograph, often):
    job = client.post("/api/jobs", json=compare(photograph, LONG, targets=[1, 3])).json()
    first = news(client, job, lambda job: job["so_far"])
    assert first["results"] == []
    one, other = first["so_far"]
    assert (one["photograph"], one["column"], one["target"], other["target"]) == (photograph, 0, 1, 3)
    done, most = one["told"].removesuffix(" passes").replace(",", "").split(" of ")
    assert (0 < int(done) < MOST_PASSES, int(most)) == (True, MOST_PASSES)

    later = news(client, first, lambda job: job["so_far"][0]["told"] != one["told"])
    assert later["so_far"][0]["id"] != one["id"]
    later = news(client, later, lambda job: job["version"] >= later["version"] + 2)
    assert client.get(f"/api/results/{one['id']}").status_code == 404, "kept in the last versions alone"
    client.delete(f"/api/jobs/{job['id']}")

    record = client.get(f"/api/results/{later['so_far'][0]['id']}")  # the last one, or one that came before the end
    if record.status_code == 200:
        assert np.isfinite(values(record.json())).all()
        assert ["so far", later["so_far"][0]["told"]] in record.json()["notes"]


def test_a_map_under_way_is_what_python_has_after_as_many_passes(client, photograph, often, monkeypatch):
    """The cancelled job leaves its last version."""
    job = client.post("/api/jobs", json=compare(photograph, LONG)).json()
    news(client, job, lambda job: job["so_far"])
    assert client.delete(f"/api/jobs/{job['id']}").json()["so_far"] == []
    client.finish(compare(photograph, {"name": "gradient", "options": {}}))  # in the same thread: nothing is under way
    last = client.app.state.deepviz.models["small"]._so_far[-1]
    passes = int(last.explanation.notes["so far"].split(" of ")[0].replace(",", ""))
    (expected,) = deepviz.explain(small_models.good(), picture(client, photograph), RISE(max_passes=passes), target=1)
    record = client.get(f"/api/results/{last.id}").json()
    np.testing.assert_allclose(values(record), expected.values, atol=1e-5 * expected.scale.high)


def test_maps_under_way_are_in_no_report_and_no_cache(client, photograph, often):
    job = client.post("/api/jobs", json=compare(photograph, LONG)).json()
    (shown,) = news(client, job, lambda job: job["so_far"])["so_far"]
    for path in ("report", "data", "sheet", "checks"):
        assert client.post(f"/api/{path}", json={"results": [shown["id"]]}).status_code == 404, path
    client.delete(f"/api/jobs/{job['id']}")
    assert client.app.state.deepviz.results.get(shown["id"]) is None


def test_a_cancelled_job_ends_in_the_middle_of_a_map(client, photograph):
    job = client.post("/api/jobs", json=compare(photograph, LONG)).json()
    news(client, job, lambda job: job["state"] == "running")
    assert client.delete(f"/api/jobs/{job['id']}").json()["state"] == "cancelled"
    start = time.monotonic()
    assert client.finish(compare(photograph, {"name": "gradient", "options": {}}))["state"] == "done"
    assert time.monotonic() - start < 8, "the model is free again"
    assert client.get(f"/api/jobs/{job['id']}").json()["error"] == ""


def test_short_requests_go_between_two_rounds(client, photograph, often):
    job = client.post("/api/jobs", json=compare(photograph, LONG)).json()
    news(client, job, lambda job: job["so_far"])
    answers = []
    asked = threading.Thread(
        target=lambda: answers.append(client.get(f"/api/models/small/photographs/{photograph}/predictions"))
    )
    asked.start()
    asked.join(10)
    assert [answer.status_code for answer in answers] == [200]
    assert client.get(f"/api/jobs/{job['id']}").json()["state"] == "running", "which goes on"
    client.delete(f"/api/jobs/{job['id']}")


def test_the_last_version_gives_way_to_the_map(client, photograph, often):
    few = {"name": "rise", "options": {"max_passes": "1000"}}
    job = client.finish(compare(photograph, few))
    assert (job["state"], job["so_far"]) == ("done", [])
    record = client.get(f"/api/results/{job['results'][0]['id']}").json()
    (expected,) = deepviz.explain(small_models.good(), picture(client, photograph), RISE(max_passes=1000), target=1)
    np.testing.assert_allclose(values(record), expected.values, atol=1e-5 * expected.scale.high)
    assert record["errors"]["size"] == record["map"]["size"]
    assert "1,000 passes" in record["detail"]


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ({"name": "rise", "options": {"max_passes": "20001"}}, "max_passes must be at most 20000 here"),
        ({"name": "occlusion", "options": {"window": "2", "stride": "1"}}, "at most 20,000 are possible here"),
        ({"name": "smooth-grad", "options": {"samples": "50", "of": "rise"}}, "at most 20,000 are possible here"),
    ],
)
def test_work_without_end_is_refused(client, photograph, method, reason):
    answer = client.post("/api/jobs", json=compare(photograph, method))
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]
