import pytest
import torch
from hypothesis import settings

settings.register_profile("tests", deadline=None, max_examples=8, derandomize=True, database=None)
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)
