"""A server around a tiny network, asked without a socket."""

from __future__ import annotations

import time

import pytest
from starlette.testclient import TestClient

import small_models
from deepviz.web import Limits, create_app
from deepviz.web.safety import TOKEN_HEADER
from pictures import picture_file

HERE = "http://127.0.0.1"


class Client(TestClient):
    """Asks with the token, and waits for jobs."""

    def finish(self, body, path="/api/jobs"):
        """The job of a comparison or of checks, when it is over."""
        answer = self.post(path, json=body)
        assert answer.status_code == 202, answer.text
        job = answer.json()
        for _ in range(400):
            if job["state"] in ("done", "failed", "cancelled"):
                return job
            time.sleep(0.02)
            job = self.get(f"/api/jobs/{job['id']}").json()
        raise AssertionError(f"the job does not end: {job}")


@pytest.fixture
def serving():
    """Makes clients of servers with limits of their own; all are stopped at the end."""
    opened = []

    def make(*models, limits=None, photographs=None, token="a token", **options):
        app = create_app(list(models) or [small_models.good()], photographs, token=token, limits=limits, **options)
        client = Client(app, base_url=HERE, headers={TOKEN_HEADER: token}, raise_server_exceptions=False)
        client.__enter__()
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(serving):
    return serving(limits=Limits(upload_bytes=300_000, pixels=1_000_000))


@pytest.fixture
def photograph(client):
    """The id of an uploaded photograph."""
    return client.post("/api/photographs?name=red.png", content=picture_file()).json()["id"]
