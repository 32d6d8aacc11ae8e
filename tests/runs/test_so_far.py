"""Maps of a long method while it is under way, told to whoever asks for them."""

import pytest
import torch
from PIL import Image

from deepviz.methods import RISE, Gradient, SmoothGrad
from deepviz.objectives import Logit
from deepviz.probe.progress import Stopped
from deepviz.runs.asked import Item
from deepviz.runs.explain import explain_items
from small_models import good

PICTURES = [Image.linear_gradient("L").convert("RGB"), Image.radial_gradient("L").convert("RGB")]
TARGETS = (Logit(1), Logit(3))
NOISE = "ignore:the standard error of"


def items(loaded):
    return [Item(loaded.prepare(one), TARGETS) for one in PICTURES]


def told(method, loaded, **options):
    """The maps of each round, or None where there were none yet, and the outcomes."""
    rounds = []

    def so_far(maps):
        rounds.append(None if maps is None else maps())

    found = list(explain_items(loaded, items(loaded), [method], so_far=so_far, **options))
    return rounds, found


@pytest.mark.filterwarnings(NOISE)
def test_each_round_has_the_maps_of_as_many_passes():
    loaded = good()
    rounds, found = told(RISE(cells=2, max_passes=320), loaded)
    assert rounds[0] is None, "until each image has a map"
    whole = [maps for maps in rounds if maps is not None]
    done = [int(maps[0].notes["so far"].split(" of ")[0].replace(",", "")) for maps in whole]
    assert done == sorted(done)
    for maps in whole:
        assert [(one.source, one.target.index) for one in maps] == [
            (item.image.name, target) for item in items(loaded) for target in (1, 3)
        ]
    last = whole[-1]
    final = [one for image in found for one in image.explanations]
    for one, other in zip(last, final, strict=True):
        assert torch.allclose(one.attribution, other.attribution)
        assert one.target.index == other.target.index


@pytest.mark.filterwarnings(NOISE)
def test_a_method_inside_another_shows_no_maps_as_the_other_ones():
    rounds, _ = told(SmoothGrad(samples=2, of=RISE(cells=2, max_passes=128)), good())
    assert rounds
    assert set(rounds) == {None}


def test_methods_that_are_quick_tell_nothing():
    assert told(Gradient(), good())[0] == []


@pytest.mark.parametrize("lenient", [True, False])
def test_who_wants_no_more_ends_the_work_and_that_is_no_failure(lenient):
    loaded, calls = good(), []

    def so_far(maps):
        calls.append(maps)
        raise Stopped

    with pytest.raises(Stopped):
        list(explain_items(loaded, items(loaded), [RISE(max_passes=1000)], lenient=lenient, so_far=so_far))
    assert len(calls) == 1
    assert not loaded.module.training
