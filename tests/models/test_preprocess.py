import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image

from deepviz.errors import ImageError, MissingExtra, ModelError
from deepviz.models.preprocess import Preprocess
from deepviz.models.preprocessing import named
from deepviz.models.torchvision_shim import import_timm, import_torchvision

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SIZES = [(300, 200), (199, 301), (256, 256), (37, 41), (640, 83)]


@pytest.fixture(scope="module")
def transforms():
    try:
        import_torchvision()
    except MissingExtra:
        pytest.skip("torchvision is not installed")
    return pytest.importorskip("torchvision.transforms")


@pytest.fixture(scope="module")
def timm():
    try:
        return import_timm()
    except MissingExtra:
        pytest.skip("timm is not installed")


def picture(size, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["bilinear", "bicubic", "nearest", "lanczos"])
def test_equals_torchvision_bit_for_bit(transforms, size, name):
    theirs = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode(name)),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(**IMAGENET),
        ]
    )
    ours = Preprocess(224, crop=224 / 256, interpolation=name, **IMAGENET)
    x, _ = ours(picture(size))
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    assert torch.equal(x, theirs(picture(size)))
    assert Preprocess.read(theirs) == ours


@pytest.mark.parametrize("size", SIZES)
def test_equals_timm_bit_for_bit(timm, size):
    for crop_pct, side in ((0.875, 224), (0.95, 224), (0.9, 288), (1.0, 32)):
        theirs = timm.data.create_transform(side, is_training=False, crop_pct=crop_pct, interpolation="bicubic")
        ours = Preprocess.read(theirs)
        assert ours is not None
        assert torch.equal(ours(picture(size))[0], theirs(picture(size)))
        assert torch.equal(
            Preprocess(side, crop_pct, interpolation="bicubic")(picture(size))[0], ours(picture(size))[0]
        )


@pytest.mark.parametrize("size", SIZES)
def test_rectangles_equal_timm(timm, size):
    theirs = timm.data.create_transform((3, 96, 160)[1:], is_training=False, crop_pct=0.9)
    ours = Preprocess.read(theirs)
    assert ours is not None
    assert ours.size == (96, 160)
    assert torch.equal(ours(picture(size))[0], theirs(picture(size)))


def test_every_crop_that_torchvision_uses_is_exact():
    for resize, crop in [(256, 224), (232, 224), (236, 224), (248, 240), (342, 299), (384, 384), (480, 480)]:
        x, geometry = Preprocess(crop, crop=crop / resize)(Image.new("RGB", (resize, 2 * resize)))
        assert geometry.box[2] - geometry.box[0] == crop
        assert x.shape == (3, crop, crop)


def test_geometry_is_the_box_that_the_model_saw():
    _, geometry = Preprocess(224, crop=224 / 256)(Image.new("RGB", (400, 300)))
    assert geometry.size == (400, 300)
    assert geometry.box == pytest.approx((68.035, 18.75, 330.792, 281.25), abs=1e-3)
    assert Preprocess(224, crop=None)(Image.new("RGB", (400, 300)))[1].covers_all


def test_box_follows_a_mark_on_the_photograph():
    photo = Image.new("RGB", (400, 300))
    photo.paste((255, 255, 255), (200, 100, 220, 120))
    x, geometry = Preprocess(112, crop=0.9)(photo)
    rows, columns = (x[0] > x[0].max() - 0.5).nonzero().T
    left, top, right, bottom = geometry.box
    assert (columns.float().mean() + 0.5) * (right - left) / 112 + left == pytest.approx(210, abs=1.5)
    assert (rows.float().mean() + 0.5) * (bottom - top) / 112 + top == pytest.approx(110, abs=1.5)


def test_squash_equals_torchvision(transforms):
    theirs = transforms.Compose([transforms.Resize((48, 64)), transforms.ToTensor(), transforms.Normalize(**IMAGENET)])
    ours = Preprocess.read(theirs)
    assert ours == Preprocess((48, 64), crop=None)
    assert torch.equal(ours(picture((300, 200)))[0], theirs(picture((300, 200))))


@pytest.mark.parametrize("size", [*SIZES, (224, 224)])
def test_the_whole_picture_in_its_aspect_equals_torchvision(transforms, size):
    theirs = transforms.Compose([transforms.Resize(48), transforms.ToTensor(), transforms.Normalize(**IMAGENET)])
    ours = Preprocess.read(theirs)
    assert ours == Preprocess(48, crop=None, fit="whole")
    x, geometry = ours(picture(size))
    assert torch.equal(x, theirs(picture(size)))
    assert geometry.covers_all


@pytest.mark.parametrize("size", SIZES)
def test_squash_and_crop_equals_torchvision(transforms, timm, size):
    tail = [transforms.ToTensor(), transforms.Normalize(**IMAGENET)]
    theirs = transforms.Compose([transforms.Resize((64, 80)), transforms.CenterCrop((56, 70)), *tail])
    ours = Preprocess.read(theirs)
    assert ours == Preprocess((56, 70), crop=0.875, fit="squash")
    assert torch.equal(ours(picture(size))[0], theirs(picture(size)))
    theirs = timm.data.create_transform(32, is_training=False, crop_mode="squash", crop_pct=0.9)
    ours = Preprocess.read(theirs)
    assert ours.fit == "squash"
    assert torch.equal(ours(picture(size))[0], theirs(picture(size)))


def test_squashed_crop_covers_the_same_part_of_any_aspect():
    _, geometry = Preprocess(32, crop=0.5, fit="squash")(Image.new("RGB", (400, 100)))
    assert geometry.box == (100, 25, 300, 75)


def test_blue_first_is_the_same_picture_the_other_way_round():
    levels = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 1.0, 2.0)}
    bgr = Preprocess(16, crop=1.0, channels="bgr", **levels)
    photo = picture((20, 16))
    pixels, _ = Preprocess(16, crop=1.0, mean=(0,) * 3, std=(1,) * 3)(photo)
    blue = (pixels[2] - 0.1) / 0.5
    assert torch.allclose(bgr(photo)[0][0], blue, atol=1e-6)
    assert torch.allclose(bgr.normalise(pixels), bgr(photo)[0], atol=1e-6)
    assert torch.allclose(bgr.unnormalise(bgr(photo)[0]), pixels, atol=1e-6)
    red = bgr(Image.new("RGB", (16, 16), (255, 0, 0)))[0]
    assert torch.allclose(red[:, 0, 0], torch.tensor([-0.2, -0.2, (1 - 0.3) / 2]))


def test_an_odd_pixel_of_a_crop_goes_where_it_is_said():
    photo = picture((11, 8))
    by_round, by_floor = Preprocess(8, crop=1.0)(photo), Preprocess(8, crop=1.0, centre="floor")(photo)
    assert by_round[1].box == (2, 0, 10, 8)
    assert by_floor[1].box == (1, 0, 9, 8)
    assert torch.equal(by_round[0][:, :, :-1], by_floor[0][:, :, 1:])


def test_grey_equals_torchvision(transforms):
    theirs = transforms.Compose(
        [
            transforms.Grayscale(),
            transforms.Resize(32),
            transforms.CenterCrop(28),
            transforms.ToTensor(),
            transforms.Normalize((0.1307,), (0.3081,)),
        ]
    )
    ours = Preprocess.read(theirs)
    assert ours == Preprocess(28, crop=28 / 32, mean=(0.1307,), std=(0.3081,))
    x, _ = ours(picture((60, 50)))
    assert x.shape == (1, 28, 28)
    assert torch.equal(x, theirs(picture((60, 50))))


def test_a_strip_of_one_pixel_takes_no_gigabytes():
    x, geometry = Preprocess(224)(Image.new("RGB", (1, 60000), "white"))
    assert x.shape == (3, 224, 224)
    assert torch.allclose(x, Preprocess(224).pixel_value("white").expand_as(x))
    assert geometry.box[3] - geometry.box[1] == pytest.approx(0.875)


def test_a_strip_that_would_not_be_cut_is_refused():
    with pytest.raises(ImageError, match="1 x 60000 pixels would become 224 x 13440000; crop it"):
        Preprocess(224, crop=None, fit="whole")(Image.new("RGB", (1, 60000)))


def test_centre_of_a_long_strip_is_the_crop_of_the_resized_strip(monkeypatch):
    smooth = Image.linear_gradient("L").resize((900, 60)).convert("RGB")
    exact, _ = Preprocess(32)(smooth)
    monkeypatch.setattr("deepviz.models.preprocess._MOST_RESIZED_PIXELS", 1)
    assert torch.allclose(Preprocess(32)(smooth)[0], exact, atol=2 / 255 / 0.22)


def test_presets_of_torchvision_weights(transforms):
    from torchvision.models import get_model_weights

    for name in ("resnet50", "efficientnet_b0", "vit_b_16", "inception_v3", "swin_t", "regnet_y_400mf"):
        for weights in get_model_weights(name):
            theirs = weights.transforms()
            ours = Preprocess.read(theirs)
            assert ours is not None, weights
            assert torch.equal(ours(picture((500, 375)))[0], theirs(picture((500, 375)))), weights


def test_preset_of_torchvision_weights_for_segmentation(transforms):
    from torchvision.models import get_model_weights

    theirs = get_model_weights("lraspp_mobilenet_v3_large").DEFAULT.transforms()
    ours = Preprocess.read(theirs)
    assert ours == Preprocess(520, crop=None, fit="whole")
    assert torch.equal(ours(picture((500, 375)))[0], theirs(picture((500, 375))))


def test_version_2_and_nested_transforms(transforms):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    normalise = v2.Normalize(mean=[0.5] * 3, std=[0.25] * 3)
    theirs = v2.Compose([v2.Compose([v2.Resize(40), v2.CenterCrop(32)]), *tensor, normalise])
    ours = Preprocess.read(theirs)
    assert ours == Preprocess(32, crop=32 / 40, mean=(0.5,) * 3, std=(0.25,) * 3)
    # version 2 multiplies by 1 / 255 where version 1 and we divide by 255
    assert torch.allclose(ours(picture((60, 50)))[0], theirs(picture((60, 50))), rtol=0, atol=1e-6)


def test_resize_of_a_tensor_is_the_same_to_about_a_level(transforms):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    theirs = v2.Compose([v2.ToImage(), v2.Resize(40), v2.CenterCrop(32), v2.ToDtype(torch.float32, scale=True)])
    ours = Preprocess.read(theirs)
    assert ours == Preprocess(32, crop=32 / 40, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert (ours(picture((60, 50)))[0] - theirs(picture((60, 50)))).abs().max() <= 1.01 / 255


def test_one_mean_for_all_channels(transforms):
    theirs = transforms.Compose(
        [transforms.Resize(32), transforms.CenterCrop(32), transforms.ToTensor(), transforms.Normalize((0.5,), (0.25,))]
    )
    assert Preprocess.read(theirs) == Preprocess(32, crop=1.0, mean=(0.5,) * 3, std=(0.25,) * 3)


def test_what_cannot_be_read_faithfully_is_not(transforms, timm):
    tail = [transforms.ToTensor(), transforms.Normalize(**IMAGENET)]
    unreadable = [
        lambda image: image,
        transforms.Compose(
            [transforms.Lambda(lambda image: image), transforms.Resize(8), transforms.CenterCrop(8), *tail]
        ),
        transforms.Compose([transforms.CenterCrop(8), *tail]),
        transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8)]),
        transforms.Compose([transforms.Resize(8), transforms.CenterCrop(16), *tail]),
        transforms.Compose([transforms.Resize(16), transforms.CenterCrop((8, 12)), *tail]),
        transforms.Compose([transforms.Resize((16, 12)), transforms.CenterCrop(8), *tail]),
        transforms.Compose([transforms.CenterCrop(16), transforms.Resize(8), *tail]),
        transforms.Compose([transforms.Resize(16, max_size=20), transforms.CenterCrop(8), *tail]),
        transforms.Compose([transforms.RandomResizedCrop(8), *tail]),
        transforms.Compose(
            [
                transforms.Resize(8),
                transforms.CenterCrop(8),
                transforms.ToTensor(),
                transforms.Normalize(**IMAGENET),
                tail[1],
            ]
        ),
        transforms.Compose(
            [transforms.Resize(8), transforms.CenterCrop(8), transforms.Grayscale(), transforms.ToTensor()]
        ),
        transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8), transforms.PILToTensor()]),
        transforms.Compose([transforms.ToTensor(), transforms.Resize(8), transforms.CenterCrop(8)]),
        timm.data.create_transform(32, is_training=True),
        timm.data.create_transform(32, is_training=False, crop_mode="border", crop_pct=0.9),
    ]
    for transform in unreadable:
        assert Preprocess.read(transform) is None, transform


def test_convnext_processor_crops_small_inputs_and_squashes_large_ones(transforms):
    transformers = pytest.importorskip("transformers")
    small = transformers.ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=224 / 256)
    large = transformers.ConvNextImageProcessor(size={"shortest_edge": 384})
    assert Preprocess.read(small).crop == pytest.approx(224 / 256)
    assert Preprocess.read(large).crop is None


def test_unnormalise_goes_back_to_the_pixels():
    preprocess = Preprocess(32, crop=1.0)
    x, _ = preprocess(picture((32, 32)))
    there = preprocess.unnormalise(x).mul(255).permute(1, 2, 0).numpy()
    assert np.abs(there - np.asarray(picture((32, 32)))).max() < 1e-3
    batch = preprocess.unnormalise(x.double()[None])
    assert batch.dtype == torch.float64
    assert batch.shape == (1, 3, 32, 32)


def test_pixel_values_are_what_such_a_picture_becomes():
    preprocess = Preprocess(8, crop=1.0)
    for name in ("black", "white"):
        x, _ = preprocess(Image.new("RGB", (8, 8), name))
        assert torch.equal(preprocess.pixel_value(name).expand_as(x), x)
    assert torch.equal(preprocess.pixel_value("mean"), torch.zeros(3, 1, 1))
    assert Preprocess(8, mean=(0.5,), std=(0.5,)).pixel_value("black").tolist() == [[[-1.0]]]
    with pytest.raises(ModelError, match="'black', 'grey', 'white' or 'mean'"):
        preprocess.pixel_value("green")


def test_repr_is_its_value():
    preprocess = Preprocess((32, 48), None, [0.5, 0.4, 0.3], torch.tensor([0.229, 0.224, 0.225]), "bicubic")
    assert preprocess.std == IMAGENET["std"]
    assert eval(repr(preprocess)) == preprocess
    assert hash(preprocess) == hash(eval(repr(preprocess)))
    other = Preprocess(32, crop=0.5, fit="squash", channels="bgr", centre="floor")
    assert eval(repr(other)) == other
    assert repr(other).endswith("interpolation='bilinear', fit='squash', channels='bgr', centre='floor')")
    assert Preprocess(32, fit="cover") == Preprocess(32)
    assert replace(Preprocess(32, fit="cover"), crop=None) == Preprocess(32, None, fit="squash")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size"),
        ({"size": (1, 2, 3)}, "size"),
        ({"size": 2.5}, "size"),
        ({"size": 8, "crop": 1.5}, "crop"),
        ({"size": 8, "crop": 0}, "crop"),
        ({"size": 8, "mean": (1, 2)}, "mean and std"),
        ({"size": 8, "std": (1, 0, 1)}, "mean and std"),
        ({"size": 8, "interpolation": "bicubik"}, "'bicubic'"),
        ({"size": 8, "fit": "pad"}, "fit must be one of 'cover', 'squash', 'whole'"),
        ({"size": 8, "crop": None, "fit": "cover"}, "needs a crop"),
        ({"size": 8, "fit": "whole"}, "cuts nothing"),
        ({"size": (8, 8), "crop": None, "fit": "whole"}, "one number as size"),
        ({"size": 8, "mean": (0,), "std": (1,), "channels": "bgr"}, "'bgr' of three channels"),
        ({"size": 8, "centre": "ceil"}, "centre must be"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ModelError, match=message):
        Preprocess(**options)


DETECTION = Preprocess(80, crop=None, fit="whole", longest=133, multiple=32, pad="mean", antialias=False)
LETTERBOX = Preprocess(
    64, crop=None, mean=(0, 0, 0), std=(1, 1, 1), fit="letterbox", multiple=32, pad=114 / 255, antialias=False
)
DETR = Preprocess(80, crop=None, fit="whole", longest=133)
YOLOS = Preprocess(80, crop=None, fit="whole", longest=133, multiple=16)
PADDED = {"detection": DETECTION, "letterbox": LETTERBOX, "square": replace(LETTERBOX, multiple=1), "detr": DETR}


@pytest.mark.parametrize("size", [*SIZES, (333, 500), (500, 71)])
def test_equals_the_transform_of_torchvision_detectors(transforms, size):
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    theirs = GeneralizedRCNNTransform(80, 133, IMAGENET["mean"], IMAGENET["std"])
    expected, _ = theirs([transforms.functional.to_tensor(picture(size))])
    x, geometry = DETECTION(picture(size))
    assert torch.allclose(x, expected.tensors[0], atol=1e-5)
    height, width = expected.image_sizes[0]
    assert geometry.on_input((0, 0, *size), (x.shape[2], x.shape[1])) == pytest.approx((0, 0, width, height))


@pytest.mark.parametrize(
    ("size", "shape", "box"),
    [
        ((640, 480), (64, 64), (0, -80, 640, 560)),  # resized to 64 x 48: 8 of 16 above
        ((480, 640), (64, 64), (-80, 0, 560, 640)),
        ((640, 300), (32, 64), (0, -10, 640, 310)),  # to 64 x 30, and to 32 alone: 1 above
        ((640, 290), (32, 64), (0, -10, 640, 310)),  # to 64 x 29: 1 above, 2 below
        ((32, 32), (64, 64), (0, 0, 32, 32)),
    ],
)
def test_a_letterbox_is_filled_around_the_picture_with_the_odd_pixel_below(size, shape, box):
    x, geometry = LETTERBOX(Image.new("RGB", size, "white"))
    assert tuple(x.shape[1:]) == shape
    assert geometry.box == pytest.approx(box)
    left, top, right, bottom = (round(side) for side in geometry.on_input((0, 0, *size), (shape[1], shape[0])))
    expected = torch.full((3, *shape), 114 / 255)
    expected[:, top:bottom, left:right] = 1
    assert torch.allclose(x, expected)


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (1900, 300), (64, 64)])
def test_equals_the_letterbox_of_ultralytics(size):
    augment = pytest.importorskip("ultralytics.data.augment")
    blurred = picture((size[0] // 8, size[1] // 8)).resize(size)
    for multiple in (1, 32):
        theirs = augment.LetterBox((640, 640), auto=multiple > 1, stride=32)(image=np.array(blurred))
        x, _ = replace(LETTERBOX, size=640, multiple=multiple)(blurred)
        assert (x * 255 - torch.from_numpy(theirs).permute(2, 0, 1)).abs().max() <= 1


@pytest.mark.parametrize("size", [*SIZES, (500, 71)])
@pytest.mark.parametrize("kind", ["Detr", "ConditionalDetr", "DeformableDetr", "Yolos", "RTDetr"])
def test_equals_the_processors_of_detr_and_its_kind(transforms, kind, size):
    transformers = pytest.importorskip("transformers")
    sides = {"height": 96, "width": 96} if kind == "RTDetr" else {"shortest_edge": 80, "longest_edge": 133}
    theirs = getattr(transformers, f"{kind}ImageProcessor")(size=sides)
    ours = Preprocess.read(theirs)
    if kind != "RTDetr":
        assert ours == (YOLOS if kind == "Yolos" else DETR)
    blurred = picture((size[0] // 4, size[1] // 4)).resize(size)
    expected = theirs(blurred, return_tensors="pt")["pixel_values"][0]
    x, _ = ours(blurred)
    assert x.shape == expected.shape
    assert (x - expected).abs().max() <= 1.01 / 255 / 0.224


def test_a_file_of_the_first_detr(tmp_path):
    said = {"feature_extractor_type": "DetrFeatureExtractor", "size": 80, "max_size": 133, "do_resize": True}
    said |= {"image_mean": IMAGENET["mean"], "image_std": IMAGENET["std"], "do_normalize": True, "resample": 2}
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(said))
    assert named(file) == DETR


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (511, 130)])
@pytest.mark.parametrize("made", PADDED.values(), ids=PADDED)
def test_a_square_of_the_picture_is_where_the_geometry_says(made, size):
    # its centroid in the input, moved back, is its centre in the picture, to half a pixel of the input
    for left, top in [(0, 0), (40, 10), (size[0] - 80, size[1] - 80), (size[0] - 33, 3)]:
        shown = np.zeros((size[1], size[0], 3), np.uint8)
        shown[top : top + 80, left : left + 80] = 255
        x, geometry = made(Image.fromarray(shown))
        black = made(Image.fromarray(np.zeros_like(shown)))[0]
        weight = (x - black).sum(0).double()
        assert weight.min() >= 0
        across = float((weight.sum(0) * (torch.arange(x.shape[2]) + 0.5)).sum() / weight.sum())
        down = float((weight.sum(1) * (torch.arange(x.shape[1]) + 0.5)).sum() / weight.sum())
        found = geometry.on_image((across, down, across, down), (x.shape[2], x.shape[1]))
        right, bottom = min(left + 80, size[0]), min(top + 80, size[1])
        pixel = (geometry.box[2] - geometry.box[0]) / x.shape[2]
        assert found[:2] == pytest.approx(((left + right) / 2, (top + bottom) / 2), abs=0.5 * pixel)


@pytest.mark.parametrize("made", [*PADDED.values(), YOLOS])
def test_what_pads_is_written_and_read(made, tmp_path):
    assert eval(repr(made)) == made
    file = tmp_path / "preprocess.json"
    file.write_text(json.dumps(asdict(made)))
    assert named(file) == made


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fit": "letterbox"}, "fit='letterbox' cuts nothing and pads"),
        ({"fit": "letterbox", "pad": 2.0}, "pad=2.0 is 'mean' or a grey level"),
        ({"pad": 0.5}, "for fit='whole' or 'letterbox'"),
        ({"longest": 100}, "longest=100 is for fit='whole'"),
        ({"fit": "whole", "longest": 10}, "at least the shorter side"),
        ({"multiple": 32}, "multiple=32 is a number of pixels, for fit='whole'"),
        ({"antialias": False, "interpolation": "bicubic"}, "antialias=False is for"),
    ],
)
def test_padding_that_makes_no_sense(given, said):
    with pytest.raises(ModelError, match=said):
        Preprocess(64, crop=None, **given)
