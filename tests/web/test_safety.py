"""Who is answered, and who is not."""

import re

import pytest
from starlette.routing import Route

from deepviz.web.safety import HEADERS, TOKEN_HEADER, host_name

UNKNOWN = "0" * 64


def routes(client):
    """Every address of the API, with something in place of its parameters, and each of its methods."""
    paths = client.get("/api/openapi.json").json()["paths"]
    listed = [(verb.upper(), path) for path, verbs in paths.items() for verb in verbs]
    assert len(listed) >= 14
    fill = {"model": "small", "photograph": UNKNOWN, "result": UNKNOWN, "job": "0" * 32, "part": "curves"}
    fill |= {"drawing": "0" * 32, "channel": "0"}
    return [(verb, re.sub(r"\{(\w+)\}", lambda found: fill[found[1]], path)) for verb, path in listed]


def test_every_route_of_the_app_is_described_or_is_the_page(client):
    described = {path for _, path in routes(client)}
    own = {route.path for route in client.app.routes if isinstance(route, Route)}
    undescribed = {path for path in own if not path.startswith("/api/")} - described
    assert "/" in undescribed
    assert all(path == "/" or path.startswith(("/static/", "/viewer/")) for path in undescribed)


@pytest.mark.parametrize("given", [None, "", "another token", "a toke", "a tokenn", "ä".encode()])
def test_every_route_refuses_without_the_token(client, given):
    for verb, path in [*routes(client), ("GET", "/api/nothing"), ("GET", "/api/openapi.json"), ("POST", "/api/")]:
        headers = {} if given is None else {TOKEN_HEADER: given}
        asking = client.build_request(verb, path, headers=headers)
        if given is None:
            del asking.headers[TOKEN_HEADER]
        answer = client.send(asking)
        assert answer.status_code == 401, (verb, path)
        assert "token" in answer.json()["detail"]


def test_the_token_is_not_taken_from_the_address(client):
    asking = client.build_request("GET", "/api/start?token=a%20token&X-DeepViz-Token=a%20token")
    del asking.headers[TOKEN_HEADER]
    assert client.send(asking).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "[::2]:80", "a:b:c"])
@pytest.mark.parametrize("path", ["/", "/static/app.js", "/api/start"])
def test_another_host_is_refused(client, host, path):
    answer = client.get(path, headers={"Host": host})
    assert answer.status_code == 421
    assert "is not allowed" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LocalHost", "[::1]:8000", "[::1]"])
def test_its_own_hosts_are_answered(client, host):
    assert client.get("/api/start", headers={"Host": host}).status_code == 200


def test_hosts_can_be_allowed(serving):
    client = serving(hosts=["hub.example"])
    assert client.get("/", headers={"Host": "hub.example"}).status_code == 200
    assert client.get("/", headers={"Host": "127.0.0.1"}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_site_is_refused_even_with_the_token(client, headers):
    for verb, path in routes(client):
        assert client.request(verb, path, headers=headers).status_code == 403, (verb, path)


def test_its_own_page_is_answered(client):
    headers = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    assert client.get("/api/start", headers=headers).status_code == 200


def test_no_answer_lets_other_sites_in_or_sets_a_cookie(client):
    preflight = {"Origin": "http://127.0.0.1", "Access-Control-Request-Method": "POST"}
    answers = [
        client.options("/api/jobs", headers=preflight),
        client.get("/"),
        client.get("/api/start"),
        client.get("/api/start", headers={"Origin": "http://evil.example"}),
        client.get("/nothing"),
    ]
    for answer in answers:
        assert not any(name.startswith("access-control") for name in answer.headers)
        assert "set-cookie" not in answer.headers


def test_every_answer_has_the_headers(client):
    for path in ("/", "/static/app.js", "/api/start", "/nothing", "/api/nothing"):
        found = client.get(path).headers
        assert all(found[name] == value for name, value in HEADERS.items())
    refused = client.get("/", headers={"Host": "evil.example"}).headers
    assert all(refused[name] == value for name, value in HEADERS.items())


def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere():
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize("length", ["999999999", "-1", "1e3", "9" * 30])
def test_a_body_is_refused_by_what_it_says_of_its_length(client, length):
    answer = client.post("/api/photographs", content=b"x", headers={"Content-Length": length})
    assert answer.status_code == 413


def test_a_body_without_a_length_is_refused_when_it_grows_too_long(client):
    def parts():
        for _ in range(40):
            yield b"x" * 10_000

    assert client.post("/api/photographs", content=parts()).status_code == 413
    assert client.post("/api/jobs", content=parts()).status_code == 413
    assert client.get("/api/start").status_code == 200


@pytest.mark.parametrize(
    ("host", "name"),
    [("localhost:80", "localhost"), ("[::1]:80", "::1"), ("::1", "::1"), ("A.B", "a.b"), ("", ""), ("[", "")],
)
def test_the_name_in_a_host_header(host, name):
    assert host_name(host) == name
