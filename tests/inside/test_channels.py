"""What channels look for: what may be asked."""

import pytest

import deepviz
from deepviz.errors import LayerError
from deepviz.models import LoadedModel
from small_models import PREPROCESS, network

SMALL = LoadedModel(network(), "small", PREPROCESS)


def test_an_image_is_drawn_for_each_channel_once():
    found = deepviz.viz_channels(SMALL, "1", [3, 0, 3], steps=1)
    assert found.channels == (3, 0)
    assert len(found.generated.images) == 2
    assert found.sheet().width > 100


@pytest.mark.parametrize("channels", [[], 3])
def test_no_list_of_channels(channels):
    with pytest.raises(LayerError, match=r"a list of at least one channel, such as \[0, 3\]"):
        deepviz.viz_channels(SMALL, "1", channels)


def test_options_that_are_not_its_to_choose():
    with pytest.raises(TypeError, match="leave out copies, objective"):
        deepviz.viz_channels(SMALL, "1", [0], copies=2, objective=None)


def test_one_progress_for_the_search_and_the_generation():
    seen = []
    photos = [deepviz.example_photo()]
    deepviz.viz_channels(SMALL, "1", [0], photos, steps=2, progress=seen.append)
    assert [one if isinstance(one, int) else one.number for one in seen] == [1, 1, 2]
    with pytest.warns(DeprecationWarning, match="use progress="):
        deepviz.viz_channels(SMALL, "1", [0], steps=1, drawn=seen.append)
    assert len(seen) == 4
