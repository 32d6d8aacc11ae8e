import pytest
import torch
import torch.nn.functional as F
from torch import nn

import deepviz
from deepviz.errors import LayerError
from deepviz.methods import GradCAM, GradCAMPlusPlus, Gradient, LayerCAM, RefineCAM
from networks import CASES, Case, assert_same

pytestmark = pytest.mark.filterwarnings("ignore:.*is all zero")


@pytest.mark.parametrize("of", [GradCAMPlusPlus(), LayerCAM(), GradCAM(relu=False)], ids=str)
def test_it_is_the_product_of_the_layers_maps_each_divided_by_its_maximum(of):
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(3)
    found = RefineCAM(of=of, layers=("1", "3"))(model, x, torch.tensor([[0, 1], [1, 2], [4, 0]]))
    for row in range(3):
        for k, c in enumerate([[0, 1], [1, 2], [4, 0]][row]):
            expected = torch.ones(1, 1, 12, 12, dtype=x.dtype)
            for layer in ("1", "3"):
                M = type(of)(layer=layer, relu=of.relu)(model, x[row : row + 1], c).relu()
                M = M / M.max() if M.max() > 0 else M
                expected = expected * F.interpolate(M, (12, 12), mode="bilinear", align_corners=False)
            assert_same(found[row : row + 1, k], expected, 1e-9)


class Stages(nn.Module):
    """Maps of a half, a quarter and an eighth of the image, two layers each."""

    def __init__(self):
        super().__init__()
        blocks = [
            nn.Sequential(nn.Conv2d(i, o, 3, stride, 1), nn.Softplus())
            for i, o, stride in ((3, 4, 2), (4, 4, 1), (4, 6, 2), (6, 6, 1), (6, 8, 2), (8, 8, 1))
        ]
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.blocks(x).mean((2, 3)))


def test_by_default_it_takes_the_last_layer_of_each_size_from_a_quarter_of_the_image_down():
    case = Case(Stages, (3, 32, 32))
    model, x = case.model(), case.images(2)
    found = RefineCAM().attribute(model, x, 1)
    assert found.notes.facts["layer"] == "blocks.3, blocks"
    assert_same(found.maps, RefineCAM(layers=("blocks.3", "blocks"))(model, x, 1), 1e-12)
    small = CASES["plain"].model().eval()
    assert RefineCAM().attribute(small, CASES["plain"].images(1), 1).notes.facts["layer"] == "3"


def test_the_method_inside_is_a_layer_method_that_names_no_layer():
    with pytest.raises(ValueError, match="of must be a layer method"):
        RefineCAM(of=Gradient())
    with pytest.raises(ValueError, match="of must name no layer: give layers="):
        RefineCAM(of=GradCAM(layer="1"))
    assert RefineCAM(layers=("a", "b")).passes() == 4
    assert str(RefineCAM(of=LayerCAM())) == "RefineCAM of LayerCAM"


def test_random_networks_are_explained_at_the_same_layers():
    case = Case(Stages, (3, 32, 32))
    net, x = case.model().float(), case.images(1).float()
    found = deepviz.sanity_check(net, x, RefineCAM(), stages=2, target=1)
    one = deepviz.sanity_check(net, x, RefineCAM(layers=("blocks.3", "blocks")), stages=2, target=1)
    assert found.layers == one.layers == ("blocks.3, blocks",)
    for name, values in found.similarities.items():
        assert_same(torch.from_numpy(values), torch.from_numpy(one.similarities[name]), 1e-6)


def test_one_layer_is_not_for_it():
    assert RefineCAM().with_layer("1") == RefineCAM()
    with pytest.raises(LayerError, match="is for methods that take one"):
        deepviz.explain(Stages(), torch.rand(1, 3, 32, 32), RefineCAM(), layer="blocks.3")
