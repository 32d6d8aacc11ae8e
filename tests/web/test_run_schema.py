"""Whatever fits the description of a run's API, or does not, is answered without a server error."""

from contextlib import suppress

import pytest

import deepviz
import tiny_run

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis.errors import Unsatisfiable  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.generation import GenerationMode  # noqa: E402

from deepviz.web import create_run_app  # noqa: E402
from deepviz.web.safety import TOKEN_HEADER  # noqa: E402

TOKEN = {TOKEN_HEADER: "a token", "Host": "127.0.0.1"}


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    images = tiny_run.folder_of_images(root / "images", 9)
    run = deepviz.run(tiny_run.loaded(), images, ["gradient"], metrics=["sparseness"], out=root / "out", shard_size=4)
    app = create_run_app(run.folder, token="a token")
    return schemathesis.openapi.from_asgi("/api/openapi.json", app, headers=TOKEN)


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.filterwarnings("ignore")
def test_no_request_is_a_server_error(described, mode):
    asked = 0
    for found in described.get_all_operations():

        @given(found.ok().as_strategy(generation_mode=mode))
        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        def ask(case):
            nonlocal asked
            asked += 1
            case.validate_response(case.call(headers=TOKEN), checks=[not_a_server_error])

        with suppress(Unsatisfiable):  # of what takes nothing, nothing is wrong
            ask()
    assert asked > 100
