"""What models ordinarily do on the way from input to output, and gradients must survive."""

import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from deepviz.methods import GradCAM, Gradient
from deepviz.probe.border import PastNoGrad, without_checkpointing
from networks import Case, assert_same


class Tokens(nn.Module):
    """A batch normalisation whose output becomes tokens, as in CvT and LeViT."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(3, 16), nn.BatchNorm2d(16), nn.Linear(16, 4)

    def forward(self, x):
        # in the plain layout whatever the input's
        h = self.stem(x.movedim(1, -1)).movedim(-1, 1).contiguous()
        tokens = self.norm(h).flatten(2).transpose(1, 2)
        return self.head((tokens * tokens.softmax(1)).sum(1))


def test_one_row_has_the_gradient_that_it_has_beside_another():
    """Torch 2.13 computes another one on a CPU, because of the layout in which it arrives at the normalisation."""
    model, x = Case(Tokens).model().eval(), Case(Tokens).images(2)
    with torch.no_grad():
        model.norm.running_var.copy_(torch.linspace(0.5, 2, 16))
    together = Gradient()(model, x, 1)
    assert_same(torch.cat([Gradient()(model, x[:1], 1), Gradient()(model, x[1:], 1)]), together, 1e-12)
    step = torch.zeros_like(x[:1])
    step[0, 1, 2, 3] = 1e-6
    slope = (model(x[:1] + step) - model(x[:1] - step))[0, 1] / 2e-6
    assert float(together[0, 1, 2, 3]) == pytest.approx(float(slope.detach()), rel=1e-4)
    cam = GradCAM(layer="norm", relu=False)
    assert_same(cam(model, x[:1], 1), cam(model, x, 1)[:1], 1e-12)


def test_past_no_grad_only_parameters_are_still_updated_without_a_graph():
    weight = nn.Parameter(torch.ones(3))
    with PastNoGrad() as past:
        with torch.no_grad():
            weight.mul_(2)
            through = weight * 3
        with torch.set_grad_enabled(False):
            also = weight * 3
    assert through.requires_grad
    assert also.requires_grad
    assert past.met >= 2
    assert weight.tolist() == [2, 2, 2]
    with torch.no_grad():
        assert not (weight * 3).requires_grad


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_is_passed_over_in_this_thread_alone_and_put_back(reentrant):
    calls, x = [], torch.rand(2, 3, requires_grad=True)

    def part(h):
        calls.append(threading.get_ident())
        return h.square()

    def gradient():
        calls.clear()
        out = checkpoint(part, x, use_reentrant=reentrant).sum()
        out.backward()
        return len(calls)

    assert gradient() == 2
    with without_checkpointing():
        assert gradient() == 1
        other = []
        thread = threading.Thread(target=lambda: other.append(gradient()))
        thread.start()
        thread.join()
        assert other == [2]
    assert gradient() == 2
