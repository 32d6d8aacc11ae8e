"""Many at once: every answer is right or 429, and nobody gets another's."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest
import uvicorn
from PIL import Image

import deepviz
import small_models
from deepviz.methods import Gradient
from deepviz.web import Limits, create_app, listening
from deepviz.web.safety import TOKEN_HEADER
from pictures import picture_file

CLIENTS = 50


@pytest.fixture
def address():
    """A server on a real socket, with narrow queues."""
    bound = listening("127.0.0.1", 0)
    app = create_app(small_models.good(), [], token="a token", limits=Limits(queued=4, waiting=4))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    bound.close()


def one_client(address, number):
    """Uploads its own photograph, explains it, and reads everything; (statuses, photograph, result, record)."""
    statuses = []

    def ask(verb, path, **what):
        for _ in range(400):
            answer = client.request(verb, path, **what)
            statuses.append(answer.status_code)
            if answer.status_code != 429:
                return answer.json()
            time.sleep(0.05)
        raise AssertionError("busy for ever")

    with httpx2.Client(base_url=address, headers={TOKEN_HEADER: "a token"}, timeout=30) as client:
        colour = (5 * number, 255 - 5 * number, 40)
        photograph = ask("POST", f"/api/photographs?name={number}.png", content=picture_file(colour=colour))
        best = ask("GET", f"/api/models/small/photographs/{photograph['id']}/predictions")
        rows = [{"photograph": photograph["id"], "targets": [number % 5]}]
        job = ask("POST", "/api/jobs", json={"model": "small", "rows": rows, "methods": [{"name": "gradient"}]})
        while job["state"] in ("queued", "running"):
            job = ask("GET", f"/api/jobs/{job['id']}?after={job['version']}")
        assert job["state"] == "done", job
        (result,) = job["results"]
        record = ask("GET", f"/api/results/{result['id']}")
    return statuses, photograph, best, result, record


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_fifty_clients_get_their_own_answers_or_are_told_to_wait(address):
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda number: one_client(address, number), range(CLIENTS)))
    seen = {status for statuses, *_ in answers for status in statuses}
    assert seen <= {200, 201, 202, 429}
    assert len({photograph["id"] for _, photograph, *_ in answers}) == CLIENTS
    model = small_models.good()
    for number, (_, photograph, best, result, record) in enumerate(answers):
        assert photograph["name"] == record["source"] == f"{number}.png"
        assert result["photograph"] == photograph["id"]
        picture = Image.new("RGB", (40, 30), (5 * number, 255 - 5 * number, 40))
        (expected,) = deepviz.explain(model, picture, Gradient(), target=number % 5)
        assert record["target"]["index"] == number % 5
        np.testing.assert_allclose(record["target"]["score"], expected.target.score, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(record["scale"]["high"], expected.scale.high, rtol=1e-4)
        (top,) = deepviz.explain(model, picture, Gradient())
        assert best[0]["index"] == top.target.index


def test_a_port_that_is_taken_is_an_error_of_ours():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(deepviz.DeepVizError, match="choose another --port"):
            listening("127.0.0.1", taken.getsockname()[1])


def test_answers_do_not_wait_for_acknowledgements():
    """asyncio turns Nagle's algorithm off for sockets that say that they are TCP."""
    with listening("127.0.0.1", 0) as bound:
        assert bound.proto == socket.IPPROTO_TCP
