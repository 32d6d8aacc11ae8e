import gc
import json
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from deepviz.errors import ImageError, MissingExtra, ModelError
from deepviz.models.images import example_photo, open_photo
from deepviz.models.load import load_model
from deepviz.models.preprocess import Preprocess
from deepviz.models.preprocessing import named, preprocessing
from deepviz.models.processors import processed
from deepviz.models.torchvision_shim import import_torchvision

SIZES = [(301, 257), (333, 640), (231, 275), (224, 224)]
"""Some of which leave an odd pixel beside a centre."""


@pytest.fixture(scope="module")
def transformers():
    try:
        import_torchvision()
    except MissingExtra:
        pytest.skip("torchvision is not installed")
    return pytest.importorskip("transformers")


def photos():
    found = [open_photo(example_photo(name)).picture for name in ("chelsea", "coffee")]
    return [*found, *(found[n % 2].resize(size) for n, size in enumerate(SIZES))]


READ = {
    "LeViT": ("LevitImageProcessor", {}),
    "LeViT-192": (
        "LevitImageProcessor",
        {"size": {"shortest_edge": 192}, "crop_size": {"height": 192, "width": 192}},
    ),
    "DeiT": ("DeiTImageProcessor", {}),
    "MobileViT": (
        "MobileViTImageProcessor",
        {"size": {"shortest_edge": 288}, "crop_size": {"height": 256, "width": 256}},
    ),
    "EfficientNet": ("EfficientNetImageProcessor", {}),
    "EfficientNet, offset": (
        "EfficientNetImageProcessor",
        {"rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False},
    ),
    "PoolFormer": ("PoolFormerImageProcessor", {}),
    "PoolFormer, both sides": ("PoolFormerImageProcessor", {"size": {"height": 224, "width": 224}}),
    "PoolFormer, no crop_pct": ("PoolFormerImageProcessor", {"crop_pct": None}),
    "MobileNetV1": ("MobileNetV1ImageProcessor", {}),
    "MobileNetV2": ("MobileNetV2ImageProcessor", {}),
    "ConvNeXt": ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
    "Mask2Former": ("Mask2FormerImageProcessor", {"size": {"height": 64, "width": 96}, "size_divisor": 32}),
    "ViT": ("ViTImageProcessor", {"size": {"height": 32, "width": 40}}),
    "ViT, not rescaled": ("ViTImageProcessor", {"do_rescale": False}),
    "ViT, not normalised": ("ViTImageProcessor", {"do_normalize": False}),
    "CLIP": ("CLIPImageProcessor", {}),
    "CLIP, not cropped": ("CLIPImageProcessor", {"do_center_crop": False}),
    "SigLIP": ("SiglipImageProcessor", {}),
    "BEiT": ("BeitImageProcessor", {}),
}


@pytest.mark.parametrize("case", READ)
def test_what_a_processor_makes_of_images(transformers, case):
    """With Pillow's resampling to rounding of floats; torch's own resampling is a few levels from Pillow's."""
    name, options = READ[case]
    processor = getattr(transformers, name)(**options)
    by_pillow = getattr(transformers, f"{name}Pil", None)
    read = Preprocess.read(processor)
    assert read is not None
    for picture in photos():
        x, _ = read(picture)
        levels = torch.tensor(read.std)[:, None, None] * 255
        assert ((x - processed(processor)(picture)) * levels).abs().mean() <= 0.2
        if by_pillow is not None:
            assert Preprocess.read(by_pillow(**options)) == read
            assert ((x - processed(by_pillow(**options))(picture)) * levels).abs().max() < 1e-2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ViTImageProcessor", {"do_resize": False}),
        ("MobileViTImageProcessor", {}),  # pads 224 pixels to 256
        ("PerceiverImageProcessor", {}),  # crops before it resizes
        ("GLPNImageProcessor", {}),  # sides that are multiples of 32
        ("ViltImageProcessor", {}),  # a longest side
        ("DetrImageProcessor", {"pad_size": {"height": 900, "width": 1400}}),
    ],
)
def test_processors_that_are_no_preprocess(transformers, name, options):
    assert Preprocess.read(getattr(transformers, name)(**options)) is None


def test_a_processor_that_cannot_be_read_is_used_itself(transformers):
    processor = transformers.PerceiverImageProcessor()
    loaded = load_model(torch.nn.Identity(), preprocess=processor)
    prepared = loaded.prepare(example_photo())
    expected = processor(open_photo(example_photo()).picture, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(prepared.x, expected)
    assert "drawn on the model's input" in prepared.notes[0]


def test_a_processor_of_patches_is_refused(transformers):
    with pytest.raises(ImageError, match=r"Siglip2ImageProcessor returns \(1, 256, 768\), not one image") as error:
        load_model(torch.nn.Identity(), preprocess=transformers.Siglip2ImageProcessor())
    assert "\n" not in str(error.value)


def test_a_processor_that_holds_others_gives_its_image_processor(transformers):
    class Both:
        image_processor = transformers.DeiTImageProcessor()
        tokenizer = None

    assert load_model(torch.nn.Identity(), preprocess=Both()).preprocess == Preprocess.read(Both.image_processor)


def levit_by_hand(picture):
    """LeViT: the shorter side to 256 for 224, the rest in proportion and cut off; the centre; ImageNet's statistics."""
    width, height = picture.size
    short = 256
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))) / 255
    return ((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)


def deit_by_hand(picture):
    """DeiT: both sides to 256, and the centre of 224."""
    pixels = np.asarray(picture.resize((256, 256), Image.Resampling.BICUBIC).crop((16, 16, 240, 240))) / 255
    return ((pixels - 0.5) / 0.5).transpose(2, 0, 1)


STATISTICS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3}
FILES = {
    "LeViT": ({"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 224}}, levit_by_hand),
    "LeViT of 2021": ({"feature_extractor_type": "LevitFeatureExtractor", "size": 224}, levit_by_hand),
    "LeViT, fast": ({"image_processor_type": "LevitImageProcessorFast", "size": {"shortest_edge": 224}}, levit_by_hand),
    "DeiT of 2021": (
        {
            "feature_extractor_type": "DeiTFeatureExtractor",
            "size": 256,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        },
        deit_by_hand,
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_processors_write(tmp_path, case):
    said, by_hand = FILES[case]
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({**STATISTICS, "do_center_crop": True, "crop_size": 224, **said})
    )
    read = named(tmp_path / "preprocessor_config.json")
    for picture in photos():
        np.testing.assert_allclose(read(picture)[0].numpy(), by_hand(picture), atol=1e-5)


def test_a_file_with_the_fields_of_a_preprocess(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"size": [64, 48], "crop": 0.9, "mean": [0, 0, 0], "std": [1, 1, 1], "channels": "bgr"}))
    expected = Preprocess((64, 48), 0.9, (0, 0, 0), (1, 1, 1), channels="bgr")
    assert load_model(torch.nn.Identity(), preprocess=path).preprocess == expected
    assert load_model(torch.nn.Identity(), preprocess=str(path)).preprocess == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "'size' is missing; it may hold size, crop, mean"),
        ('{"size": 8, "croop": 1}', "'croop' is unknown; did you mean 'crop'"),
        ("[1]", "must hold an object with size, crop"),
        ("{", "cannot be read as JSON"),
        ('{"image_mean": [0.5], "image_std": [0.5], "size": 8, "do_pad": true}', "more than resizing, cropping"),
        ('{"size": 0}', "size must be a number of pixels"),
    ],
)
def test_files_that_say_no_preprocessing(tmp_path, text, message):
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(ModelError, match=message) as error:
        named(tmp_path / "wrong.json")
    assert "\n" not in str(error.value)


def test_named_preprocessing():
    white = Image.new("RGB", (300, 300), "white")
    top = {"imagenet": (1 - 0.406) / 0.225, "inception": 1.0, "clip": (1 - 0.40821073) / 0.27577711, "0..255": 255.0}
    for name, value in top.items():
        x, _ = load_model(torch.nn.Identity(), preprocess=name).preprocess(white)
        assert x[2, 0, 0] == pytest.approx(value, rel=1e-6)
    with pytest.raises(ModelError, match="no preprocessing is called 'imagnet'; did you mean 'imagenet'"):
        load_model(torch.nn.Identity(), preprocess="imagnet")
    with pytest.raises(ModelError, match=r"preprocess must be a deepviz\.Preprocess, a name"):
        load_model(torch.nn.Identity(), preprocess=224)


def test_a_reading_that_differs_is_warned_of_with_the_figure(monkeypatch):
    def darker(picture):
        return Preprocess(32)(picture)[0] - 3 / 255 / 0.225

    monkeypatch.setattr(Preprocess, "read", classmethod(lambda cls, transform: Preprocess(32)))
    read, (remark,) = preprocessing(darker)
    assert read == Preprocess(32)
    assert "differs from the original on two images by up to 3.05 of 255 levels, 3 on average" in remark
    with pytest.warns(match=r"up to 3\.05 of 255 levels"):
        loaded = load_model(torch.nn.Identity(), preprocess=darker)
    assert loaded.notes == (remark,)


def test_a_reading_of_another_shape_is_not_used(monkeypatch):
    def smaller(picture):
        return Preprocess(24)(picture)[0]

    monkeypatch.setattr(Preprocess, "read", classmethod(lambda cls, transform: Preprocess(32)))
    used, (remark,) = preprocessing(smaller)
    assert used is smaller
    assert "makes (3, 32, 32) of an image of which the original makes (3, 24, 24): the original is used" in remark


@pytest.mark.parametrize("source", ["torch", "numpy", "random"])
def test_a_random_transform_is_warned_of_and_leaves_random_states_alone(source):
    import random

    draw = {"torch": lambda: float(torch.rand(())), "numpy": np.random.rand, "random": random.random}[source]

    def brighter(picture):
        return torch.from_numpy(np.array(picture.resize((8, 8)))).permute(2, 0, 1) / 255 + draw()

    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    with pytest.warns(match=r"preprocessing is random: two calls on one image differ by up to 0\.\d+ in values"):
        loaded = load_model(torch.nn.Identity(), preprocess=brighter)
    assert "each map is of one draw" in loaded.notes[0]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_a_transform_is_tried_once_until_it_changes(transformers):
    transforms = import_torchvision().transforms
    calls = []

    def counted(picture):
        calls.append(picture)
        return picture

    tail = [transforms.ToTensor(), transforms.Lambda(counted)]
    readable, unreadable = transforms.Compose([transforms.Resize((8, 8)), tail[0]]), transforms.Compose(tail)
    assert preprocessing(readable)[0] == Preprocess(8, None, (0,) * 3, (1,) * 3)
    readable.transforms[0].size = (9, 9)
    assert preprocessing(readable)[0] == Preprocess(9, None, (0,) * 3, (1,) * 3)
    for _ in range(3):
        assert preprocessing(unreadable) == (unreadable, ())
    assert len(calls) == 2


def test_what_was_tried_is_not_kept_alive():
    class Held:
        pass

    held = Held()
    gone = weakref.ref(held)

    def plain(picture, held=held):
        return torch.zeros(3, 8, 8)

    assert preprocessing(plain) == (plain, ())
    del plain, held
    gc.collect()
    assert gone() is None


def test_random_sizes_are_warned_of():
    sizes = iter([8, 9])

    def resized(picture):
        return torch.zeros(3, next(sizes), 8)

    _, (remark,) = preprocessing(resized)
    assert "it makes (3, 8, 8) and then (3, 9, 8) of one image" in remark
