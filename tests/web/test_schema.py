"""Whatever fits the API's description, or does not, is answered without a server error."""

import pytest

import small_models

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.generation import GenerationMode  # noqa: E402

from deepviz.web import Limits, create_app  # noqa: E402
from deepviz.web.safety import TOKEN_HEADER  # noqa: E402

TOKEN = {TOKEN_HEADER: "a token", "Host": "127.0.0.1"}
app = create_app(small_models.good(), token="a token", limits=Limits(queued=1000))
schema = schemathesis.openapi.from_asgi("/api/openapi.json", app, headers=TOKEN)


SNIPPETS = "/api/snippets"
few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@schema.exclude(path=SNIPPETS).parametrize()
@few
@pytest.mark.filterwarnings("ignore")
def test_no_request_is_a_server_error(case):
    answer = case.call(headers=TOKEN)
    case.validate_response(answer, checks=[not_a_server_error])


# schemathesis 4.32 raises InvalidSchema when it breaks a list of comparisons
@given(schema[SNIPPETS]["POST"].as_strategy(generation_mode=GenerationMode.POSITIVE))
@few
@pytest.mark.filterwarnings("ignore")
def test_no_valid_request_for_snippets_is_a_server_error(case):
    answer = case.call(headers=TOKEN)
    case.validate_response(answer, checks=[not_a_server_error])
