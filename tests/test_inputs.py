"""What goes along with an image stays with it; what cannot be told apart is asked for."""

import numpy as np
import pytest
import torch
from torch import nn

from deepviz import Inputs, shared
from deepviz.errors import ModelError
from deepviz.methods import GradCAM, Gradient, GradTimesImage, IntegratedGradients, SmoothGrad
from networks import assert_same

N = 5


class WithTable(nn.Module):
    """Scores of an image (N, 3, 6, 6) and a table (N, 4): the table weights the channels."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.double()

    def forward(self, image, table, power=1):
        return self.head(self.conv(image).relu().mean((2, 3)) * table**power)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MODEL, IMAGE, TABLE = WithTable(), drawn(N, 3, 6, 6), drawn(N, 4, seed=1)
EXTRA = {"tuple": (TABLE,), "mapping": {"table": TABLE}, "beside others": (TABLE, 1), "Inputs": None}


METHODS = [Gradient(), GradCAM(layer="conv", relu=False), IntegratedGradients(steps=7), SmoothGrad(samples=7)]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("extra", EXTRA)
@pytest.mark.parametrize("target", [None, 1, torch.tensor([[0, 2]] * N)], ids=["predicted", "one", "two"])
@pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
def test_each_image_has_its_own_row_whatever_the_chunks(method, extra, target):
    if extra == "Inputs":
        found = method(MODEL, Inputs(IMAGE, {"table": TABLE}), target)
    else:
        found = method(MODEL, IMAGE, target, extra=EXTRA[extra])
    of_one = target[:1] if isinstance(target, torch.Tensor) else target
    alone = [method(MODEL, IMAGE[k : k + 1], of_one, extra=(TABLE[k : k + 1],)) for k in range(N)]
    assert_same(found, torch.cat(alone), 1e-12)


def test_every_floating_tensor_of_x_is_explained_in_its_structure():
    leaf, table = IMAGE.clone().requires_grad_(), TABLE.clone().requires_grad_()
    expected = torch.autograd.grad(MODEL(leaf, table)[:, 1].sum(), (leaf, table))
    found = Gradient()(MODEL, (IMAGE, TABLE), 1)
    assert type(found) is tuple
    named = Gradient()(MODEL, {"table": TABLE, "image": IMAGE}, 1)
    assert list(named) == ["table", "image"]
    for one, other in zip((*found, named["image"], named["table"]), expected * 2, strict=True):
        assert_same(one, other, 1e-12)


def test_integrated_gradients_of_several_inputs_share_out_the_change_of_the_score():
    maps = IntegratedGradients(steps=60)(MODEL, (IMAGE, TABLE), 1)
    change = (MODEL(IMAGE, TABLE) - MODEL(0 * IMAGE, 0 * TABLE))[:, 1].detach()
    assert_same(sum(part.flatten(1).sum(1) for part in maps), change, 1e-2)
    product = GradTimesImage()(MODEL, (IMAGE, TABLE), 1)
    assert_same(product[1], TABLE * Gradient()(MODEL, (IMAGE, TABLE), 1)[1], 1e-12)


def test_whole_numbers_are_carried_along_and_not_explained():
    class Tokens(nn.Module):
        def forward(self, ids, image):
            return image.mean((2, 3)) * ids[:, :1]

    ids = torch.arange(1, N + 1)[:, None]
    nothing, found = Gradient()(Tokens(), (ids, IMAGE), 1)
    assert nothing is None
    assert_same(found[:, 1], (ids.double()[:, :, None] / 36).expand(N, 6, 6), 1e-12)


def test_a_layers_map_is_of_the_image():
    cam, nothing = GradCAM(layer="conv", relu=False)(MODEL, (IMAGE, TABLE), 1)
    assert nothing is None
    assert_same(cam, GradCAM(layer="conv", relu=False)(MODEL, IMAGE, 1, extra=(TABLE,)), 1e-12)


def test_what_is_shared_is_the_same_for_all_rows():
    class Seen(nn.Module):
        def forward(self, image, camera, names=None):
            return torch.einsum("nchw,cd->nd", image, camera)

    camera = drawn(3, 3)
    x = drawn(3, 3, 4, 4)
    found = Gradient()(Seen(), x, 1, extra={"camera": shared(camera), "names": "plain values go along"})
    assert_same(found, camera[:, 1].view(1, 3, 1, 1).expand_as(found), 1e-12)
    with pytest.raises(ValueError, match=r"extra\['camera'\] has 3 rows for 5 images.*shared"):
        Gradient()(Seen(), IMAGE, 1, extra={"camera": camera})


@pytest.mark.parametrize(
    ("x", "extra", "error", "says"),
    [
        (IMAGE, TABLE[:3], ValueError, "3 rows for 5 images"),
        (IMAGE, (TABLE[0],), ValueError, "4 rows for 5 images"),
        (IMAGE, {"names": list("abcde")}, ValueError, "as many values as there are images"),
        (IMAGE, {"table": np.zeros((5, 4))}, TypeError, "array: give a tensor"),
        (IMAGE, 3, TypeError, "tuple or a mapping"),
        ((IMAGE, TABLE[:2]), None, ValueError, r"x\[1\] has 2 rows, x\[0\] has 5"),
        ((IMAGE, [1.0]), None, TypeError, r"x\[1\] must be a tensor"),
        ({"a": IMAGE}, {"a": TABLE}, ValueError, "both in x and in extra"),
        ((), None, ValueError, "floating point"),
        ({"a": IMAGE, "b": IMAGE.new_full((5, 2), float("nan"))}, None, ValueError, r"x\['b'\] holds NaN"),
        (IMAGE.long(), None, ValueError, "floating point, got int64"),
    ],
)
def test_what_has_no_row_for_each_image_is_refused(x, extra, error, says):
    with pytest.raises(error, match=says):
        Inputs(x, extra)


@pytest.mark.parametrize("method", [Gradient(), IntegratedGradients(steps=4), SmoothGrad(samples=4)], ids=str)
def test_side_information_on_the_model_is_refused_by_the_name_of_the_way_out(method):
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.table = MODEL, TABLE

        def forward(self, image):
            return self.net(image, self.table[: len(image)])

    with pytest.raises(ModelError, match="extra="):
        method(Keeps(), IMAGE, 1)
