"""Every method on every network: a row's map is that of the row alone, and the model is as it was; or it is refused."""

import copy

import pytest
import torch

from deepviz.errors import DeepVizError
from networks import CASES, EVERY, METHODS, assert_same

pytestmark = pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
TARGET = torch.tensor([1, 0, 1])


@pytest.mark.parametrize("stem", [stem for stem in EVERY if stem not in METHODS])
@pytest.mark.parametrize("name", CASES)
def test_right_or_refused(name, stem):
    method, case = EVERY[stem], CASES[name]
    model, x = case.model(), case.images(3)
    before = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    try:
        maps = method(model, x, TARGET)
    except DeepVizError as error:
        message = str(error)
        assert "\n" not in message
        assert message[0].islower() or message.startswith(method.name), message
        return
    finally:
        assert [module.training for module in model.modules()] == before[1]
        assert all(torch.equal(value, before[0][key]) for key, value in model.state_dict().items())
        assert not any("forward" in vars(module) for module in model.modules())
    assert maps.isfinite().all()
    assert_same(maps[2:], method(model, x[2:], TARGET[2:]), 1e-8)
    both = method(model, x[:1], torch.tensor([[1, 0]]))
    assert_same(both[:, 0], maps[:1], 1e-8)
