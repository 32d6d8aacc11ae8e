import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from deepviz.errors import DeepVizWarning, ImageError, LayerError
from deepviz.inside import dataset_examples, viz_activations, viz_channels
from deepviz.models import LoadedModel
from networks import TinyViT, plain
from small_models import PREPROCESS, Interrupting, network


def spotting(size=3):
    """Channel 0 answers where it is bright, channel 1 where it is dark, channel 2 never."""
    conv = nn.Conv2d(1, 3, size, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, -1.0, 0.0])[:, None, None, None].expand_as(conv.weight))
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def spot(row, column, value=1.0, size=(12, 16)):
    x = torch.zeros(1, *size)
    x[0, row, column] = value
    return x


def test_the_brightest_spots_come_first_with_their_place():
    photos = [spot(2, 3, 1.0), spot(5, 6, 3.0), spot(7, 8, 2.0), torch.zeros(1, 12, 16)]
    examples = dataset_examples(spotting(1), "0", [0], photos)
    assert [example.value for example in examples[0]] == [3, 2, 1]
    assert [example.position for example in examples[0]] == [(5, 6), (7, 8), (2, 3)]
    assert [example.box for example in examples[0]] == [(6, 5, 7, 6), (8, 7, 9, 8), (3, 2, 4, 3)]
    assert (examples.seen, examples.complete, examples.skipped) == (4, True, ())


def strongest(loaded, photo):
    """The example of the strongest channel at the second convolution, and the channel."""
    channel = viz_activations(loaded, photo, "2").order[0]
    return dataset_examples(loaded, "2", [channel], [photo])[channel][0], channel


def test_the_crop_is_what_the_position_sees_and_no_more():
    photo = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    loaded = LoadedModel(network(), "small", deepviz.Preprocess(40, crop=1.0))
    example, _ = strongest(loaded, photo)
    row, column = example.position
    left, top = max(0, 2 * column - 2), max(0, 2 * row - 2)
    assert example.box == (left, top, min(40, 2 * column + 3), min(40, 2 * row + 3))
    assert np.array_equal(np.asarray(example.crop), photo[top : 2 * row + 3, left : 2 * column + 3])
    assert not example.whole


def test_changing_what_lies_outside_the_crop_changes_nothing():
    photo = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    loaded = LoadedModel(network(), "small", deepviz.Preprocess(40, crop=1.0))
    example, channel = strongest(loaded, photo)
    left, top, right, bottom = map(int, example.box)
    other = np.full_like(photo, 128)
    other[top:bottom, left:right] = photo[top:bottom, left:right]
    x, y = (loaded.preprocess(Image.fromarray(picture))[0][None] for picture in (photo, other))
    with torch.no_grad():
        here = (0, channel, *example.position)
        assert float(loaded.module[:3](x)[here]) == float(loaded.module[:3](y)[here]) == pytest.approx(example.value)


def test_the_crop_lies_on_the_original_photograph():
    """Resized to a quarter and cropped to its centre: input pixel (x, y) is 4 x 4 pixels of the photograph."""
    photo = np.zeros((80, 160, 3), np.uint8)
    photo[40:44, 100:104] = 255
    model = LoadedModel(spotting(1), "spot", deepviz.Preprocess(20, crop=1.0, mean=(0.0,), std=(1.0,)))
    (example,) = dataset_examples(model, "0", [0], [photo])[0]
    assert example.position == (10, 15)
    assert example.box == (100, 40, 104, 44)
    assert np.asarray(example.crop).min() == 255


def test_at_most_one_crop_of_each_photograph_and_at_most_so_many():
    photos = torch.rand(30, 1, 12, 16, generator=torch.Generator().manual_seed(0))
    examples = dataset_examples(spotting(), "0", [0], photos, most=7)[0]
    sums = nn.functional.conv2d(photos, torch.ones(1, 1, 3, 3))
    expected = sums.flatten(1).amax(1).topk(7).values
    torch.testing.assert_close(torch.tensor([example.value for example in examples]), expected)


def test_the_size_of_chunks_changes_nothing():
    photos = torch.rand(11, 1, 12, 16, generator=torch.Generator().manual_seed(0))
    together = dataset_examples(spotting(), "0", [0], photos, most=20)[0]
    alone = [dataset_examples(spotting(), "0", [0], photo[None])[0][0] for photo in photos]
    assert [e.value for e in together] == pytest.approx(sorted((e.value for e in alone), reverse=True))


def test_a_channel_asked_for_twice_is_searched_once():
    examples = dataset_examples(spotting(1), "0", [0, np.int64(0)], [spot(2, 3), spot(4, 5)])
    assert list(examples) == [0]
    assert len(examples[0]) == 2


def test_a_channel_that_nothing_activates_has_no_examples():
    examples = dataset_examples(spotting(), "1", [0, 1, 2], [spot(2, 3), torch.full((1, 12, 16), 0.5)])
    assert [len(examples[channel]) for channel in examples] == [2, 0, 0]
    assert examples.sheet().size[0] > 0
    with pytest.raises(LayerError, match="channel 7 was not asked for: there are 0, 1, 2"):
        examples[7]


def test_where_the_whole_image_counts_it_is_whole_and_marked():
    model, x = TinyViT(), torch.rand(3, 12, 16)
    strongest = viz_activations(model, x, "blocks.0").order[0]
    (example,) = dataset_examples(model, "blocks.0", [strongest], [x])[strongest]
    assert example.whole
    assert example.box == (0, 0, 16, 12)
    wide = nn.Sequential(nn.Conv2d(1, 1, 25, padding=12, bias=False), nn.Flatten(), nn.LazyLinear(2))
    nn.init.ones_(wide[0].weight)
    wide(torch.zeros(1, 1, 12, 16))
    (example,) = dataset_examples(wide, "0", [0], [torch.full((1, 12, 16), 0.5)])[0]
    assert example.whole
    picture = np.asarray(example.crop)
    assert picture.min() == 0
    assert picture.max() == 255


def test_photographs_of_different_sizes():
    photos = [spot(2, 3), spot(20, 9, 2.0, size=(30, 18)), spot(1, 1, 3.0)]
    assert [example.position for example in dataset_examples(spotting(1), "0", [0], photos)[0]] == [
        (1, 1),
        (20, 9),
        (2, 3),
    ]


def test_a_folder_and_unreadable_photographs(tmp_path):
    for number in range(3):
        Image.fromarray(np.full((40, 50, 3), 60 * number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    loaded = LoadedModel(network(), "small", PREPROCESS)
    with pytest.warns(DeepVizWarning, match=r"skipped 1 of 3 images: .*1.png is not an image"):
        examples = dataset_examples(loaded, "1", range(8), tmp_path)
    assert examples.seen == 2
    assert [name for name, _ in examples.skipped] == ["1.png"]
    assert {example.source for found in examples.found.values() for example in found} <= {"0.png", "2.png"}
    assert "1 skipped" in repr(examples)


def test_nothing_to_look_at():
    loaded = LoadedModel(network(), "small", PREPROCESS)
    with pytest.raises(ImageError, match="no image was given"):
        dataset_examples(loaded, "1", [0], [])
    with pytest.raises(ImageError, match=r"none of 2 images could be read; the first: a.png does not exist"):
        dataset_examples(loaded, "1", [0], ["a.png", "b.png"])


@pytest.mark.parametrize(
    ("layer", "channels", "most", "message"),
    [
        ("9", [0], 9, "no layer '9'"),
        ("6", [0], 9, "has no spatial map"),
        ("2", [0, 8], 9, "channel 8 is out of range: layer '2' has 8, 0 to 7"),
        ("2", [0], 0, "most must be at least 1"),
    ],
)
def test_what_is_not_there_is_a_layer_error(layer, channels, most, message):
    with pytest.raises(LayerError, match=message):
        dataset_examples(plain(), layer, channels, torch.rand(2, 3, 12, 12), most)


def test_an_interruption_keeps_what_there_is():
    def photos():
        for number in range(30):
            if number == 20:
                raise KeyboardInterrupt
            yield spot(2, 3, number + 1.0)

    done = []
    examples = dataset_examples(spotting(1), "0", [0], photos(), most=2, progress=done.append)
    assert not examples.complete
    assert (examples.seen, done) == (16, [8, 16])
    assert [example.value for example in examples[0]] == [16, 15]
    assert "interrupted" in repr(examples)


def test_an_interruption_inside_the_model():
    model = Interrupting()
    examples = dataset_examples(model, "body.2", [0], torch.rand(60, 3, 32, 32))
    assert not examples.complete
    assert 0 < examples.seen < 60
    assert not any(module._forward_hooks for module in model.modules())


def test_memory_does_not_grow_with_the_number_of_photographs():
    def kept(count):
        rng = np.random.default_rng(0)
        photos = (rng.integers(0, 255, (200, 200, 3)).astype(np.uint8) for _ in range(count))
        tracemalloc.start()
        dataset_examples(loaded, "3", [0, 1], photos, most=2)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    loaded = LoadedModel(network(), "small", PREPROCESS)
    kept(16)
    assert kept(96) < 1.2 * kept(16)


def test_the_sheet_is_written_and_shown(tmp_path):
    examples = dataset_examples(spotting(), "0", [0, 1], torch.rand(12, 1, 12, 16))
    with Image.open(examples.save(tmp_path / "examples.png")) as written:
        assert written.size == examples.sheet().size
    assert examples._repr_png_().startswith(b"\x89PNG")
    assert "3 x 3 pixels of the input" in examples._repr_html_()


def test_the_warning_points_to_the_line_that_asked():
    with pytest.warns(DeepVizWarning, match="skipped 1 of 2") as told:
        dataset_examples(
            LoadedModel(network(), "small", PREPROCESS), "1", [0], [np.zeros((40, 50, 3), np.uint8), "no.png"]
        )
    with pytest.warns(DeepVizWarning, match="skipped 1 of 2") as through:
        viz_channels(
            LoadedModel(network(), "small", PREPROCESS), "1", [0], [np.zeros((40, 50, 3), np.uint8), "no.png"], steps=1
        )
    assert {warning.filename for warning in (*told, *through)} == {__file__}


@pytest.mark.parametrize(
    ("channels", "most", "words"),
    [(3, 9, "a list of channels"), ([], 9, "at least one"), ([0], 0, "at least 1"), ([0], 1.5, "and a whole number")],
)
def test_channels_and_numbers_that_are_none(channels, most, words):
    with pytest.raises(LayerError, match=words):
        dataset_examples(LoadedModel(network(), "small", PREPROCESS), "1", channels, [Image.new("RGB", (40, 50))], most)


def test_one_picture_is_a_list_of_one():
    loaded, picture = LoadedModel(network(), "small", PREPROCESS), Image.new("RGB", (40, 50), "olive")
    assert dataset_examples(loaded, "1", [0], picture).seen == 1
