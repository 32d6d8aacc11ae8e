import base64
import io
import json
import re
from dataclasses import dataclass, replace
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image

import deepviz
from deepviz import catalog
from deepviz.errors import MissingExtra, OutputError
from deepviz.files import probe_folder, write_bytes
from deepviz.geometry import Geometry
from deepviz.methods import GradCAM, SmoothGrad
from deepviz.models import LoadedModel
from deepviz.objectives import Function, Logit
from deepviz.render import Scale
from deepviz.render.text import percent
from deepviz.results import explanation
from deepviz.results.explanation import ExplainedTarget, _headings
from small_models import good, network, transformer


def picture(width=60, height=40, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def explained(methods="gradient", **options):
    return deepviz.explain(good(), picture(), methods, **{"target": 0, **options})


def test_what_is_drawn_of_each_method():
    gradient, product, cam, signed, squares = explained(
        ["gradient", "grad-times-image", GradCAM(), GradCAM(relu=False), SmoothGrad(samples=2, statistic="mean_square")]
    )
    assert np.array_equal(gradient.values, gradient.attribution.abs().amax(0).numpy())
    assert np.array_equal(product.values, product.attribution.sum(0).numpy())
    assert np.array_equal(cam.values, cam.attribution[0].numpy())
    assert np.array_equal(squares.values, squares.attribution.sum(0).numpy())
    assert [one.signed for one in (gradient, product, cam, signed, squares)] == [False, True, False, True, False]
    assert [one.coarse for one in (gradient, product, cam, signed, squares)] == [False, False, True, True, False]
    assert cam.scale.high == cam.values.max()
    assert product.scale.low == -product.scale.high


def test_values_that_are_not_finite_are_never_drawn():
    (one,) = explained()
    with pytest.raises(ValueError, match="NaN or infinity"):
        replace(one, attribution=one.attribution * float("nan")).overlay()


def test_views_and_their_sizes():
    (one,) = explained("grad-cam")
    assert one.overlay().size == (60, 40)
    assert one.geometry.box == (14.0, 4.0, 46.0, 36.0)
    assert one.heatmap().size == (32, 32)
    assert one.grey().mode == "L"
    assert one.picture("heatmap").tobytes() == one.heatmap().tobytes()
    assert one.heatmap(cmap="viridis").tobytes() != one.heatmap().tobytes()
    assert np.isnan(one.placed()).any()
    assert one.overlay(opacity=0.0).getpixel((30, 20)) == one.image.getpixel((30, 20))
    shared = Scale(0.0, 1e9, False)
    assert one.overlay(scale=shared).getpixel((30, 20)) == one.image.getpixel((30, 20))


def test_unknown_colour_map_names_near_ones():
    with pytest.raises(ValueError, match="did you mean 'viridis'"):
        explained()[0].overlay(cmap="viridsi")


def test_captions_name_method_class_probability_and_layer():
    gradient, cam = explained(["gradient", "grad-cam"])
    assert (gradient.title, cam.title) == ("Gradient", "Grad-CAM")
    probability = percent(cam.target.probability)
    assert gradient.caption == f"tabby, tabby cat {probability}"
    assert cam.caption == f"tabby, tabby cat {probability} · 3"
    assert "Grad-CAM" in repr(cam)
    assert "(1, 16, 16)" in repr(cam)


@pytest.mark.parametrize(
    ("probability", "shown"),
    [
        (1.0, "100.0 %"),
        (0.99999, "99.9 %"),
        (0.5, "50.0 %"),
        (0.0123, "1.2 %"),
        (0.001, "0.1 %"),
        (0.0006, "<0.1 %"),
        (0.0, "0.0 %"),
    ],
)
def test_a_probability_is_zero_or_certain_only_if_it_is(probability, shown):
    assert str(ExplainedTarget(0, "cat", probability, 1.0)) == f"cat {shown}"


@pytest.mark.parametrize("ending", [".png", ".jpg", ".JPEG"])
def test_pictures_on_disk(ending, tmp_path):
    (one,) = explained()
    path = one.save(tmp_path / "deep" / f"map{ending}")
    with Image.open(path) as stored:
        assert stored.size == (60, 40)
        assert np.abs(np.asarray(stored).astype(int) - np.asarray(one.overlay())).mean() < (
            1e-9 if ending == ".png" else 9
        )
    one.save(tmp_path / "heat.png", view="heatmap")
    with Image.open(tmp_path / "heat.png") as stored:
        assert stored.size == (32, 32)


@pytest.mark.filterwarnings("ignore:.*the score is not positive")
@pytest.mark.parametrize("method", [name for name, cls in catalog.METHODS.items() if not cls.needs.pooling])
def test_arrays_come_back_with_all_that_was_known(method, tmp_path):
    model = transformer() if catalog.METHODS[method].needs.attention else good()
    (one,) = deepviz.explain(model, picture(), method, target=0)
    with np.load(one.save(tmp_path / "map.npz")) as stored:
        values, told = torch.from_numpy(stored["attribution"]), json.loads(str(stored["metadata"]))
    assert torch.equal(values, one.attribution)
    with safetensors.safe_open(one.save(tmp_path / "map.safetensors"), framework="pt") as stored:
        assert torch.equal(stored.get_tensor("attribution"), one.attribution)
        assert json.loads(stored.metadata()["deepviz"]) == told
    assert told == json.loads(json.dumps(one.metadata()))
    assert told["target"] == {
        "index": 0, "label": "tabby, tabby cat", "probability": one.target.probability, "score": one.target.score,
        "objective": "logit(0)",
    }  # fmt: skip
    assert told["method"] == repr(one.method)
    assert told["geometry"] == {"size": [60, 40], "box": list(one.geometry.box)}
    assert told["versions"]["torch"] == torch.__version__


def boxed(scores):
    return scores[:, 0]


@pytest.mark.parametrize("target", [boxed, Function(boxed) - 2 * Logit(1)], ids=["a callable", "a sum with one"])
def test_of_a_callable_every_file_says_that_its_name_alone_is_kept(target, tmp_path):
    (one,) = deepviz.viz_backprop(network(), torch.ones(3, 8, 8), target=target)
    json.dumps(one.metadata(), allow_nan=False)
    with np.load(one.save(tmp_path / "map.npz")) as stored:
        npz = json.loads(str(stored["metadata"]))
    with safetensors.safe_open(one.save(tmp_path / "map.safetensors"), framework="pt") as stored:
        tensors = json.loads(stored.metadata()["deepviz"])
    (again,) = deepviz.load_explanations(deepviz.save_explanations([one], tmp_path / "map"))
    for told in (npz, tensors, again.metadata()):
        assert told["target"]["held a callable"] is True
        assert told["target"]["label"].startswith("boxed")
    (whole,) = deepviz.viz_backprop(network(), torch.ones(3, 8, 8), target=Logit(0) - Logit(1))
    assert "held a callable" not in whole.metadata()["target"]


def test_a_layer_given_as_a_module_can_be_saved(tmp_path):
    model = network()
    (one,) = deepviz.viz_gradcam(model, torch.ones(3, 8, 8), layer=model[1])
    assert one.layer == "1"
    one.save(tmp_path / "map.npz")


def test_unknown_ending(tmp_path):
    with pytest.raises(
        OutputError, match=r"map\.tif: the ending must be one of \.png, \.jpg, \.jpeg, \.gif, \.pdf, \.svg"
    ):
        explained()[0].save(tmp_path / "map.tif")


@pytest.mark.parametrize("ending", [".png", ".npz", ".safetensors"])
def test_a_folder_that_cannot_be_written(ending, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write") as error:
        explained()[0].save(tmp_path / "file" / f"map{ending}")
    assert "\n" not in str(error.value)
    with pytest.raises(OutputError, match="cannot write"):
        probe_folder(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"


def test_nothing_half_written_is_left(tmp_path):
    (tmp_path / "map.png").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*map\.png"):
        write_bytes(tmp_path / "map.png", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]
    probe_folder(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


class Balanced(HTMLParser):
    """Checks that tags close in order, and collects what is loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        if tag not in ("img", "br"):
            self.open.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("method", ["gradient", "grad-cam", "guided-backprop", "smooth-grad"])
def test_html_is_well_formed_and_needs_nothing_else(method):
    (one,) = explained(method)
    one = replace(one, source="<b>&.png", target=replace(one.target, label="<script>alert(1)</script>"))
    page = Balanced()
    page.feed(one._repr_html_())
    page.close()
    assert page.open == []
    assert "<script>alert(1)</script>" in page.text
    assert "<b>&.png" in page.text
    assert one.title in page.text
    assert len(page.sources) == 2
    for source in page.sources:
        kind, data = source.split(",")
        assert kind in ("data:image/png;base64", "data:image/jpeg;base64")
        with Image.open(io.BytesIO(base64.b64decode(data))) as shown:
            shown.load()


def test_png_for_notebooks():
    (one,) = explained()
    with Image.open(io.BytesIO(one._repr_png_())) as shown:
        assert (shown.format, shown.size) == ("PNG", (440, 293)), "a small image is enlarged"


@pytest.mark.parametrize("method", ["gradient", "grad-cam(relu=False)"])
def test_a_large_photograph_is_small_in_a_notebook(method):
    """A picture of noise, which cannot be compressed: no photograph is larger."""
    (one,) = deepviz.explain(good(), picture(4000, 3000), method, target=0)
    assert len(one._repr_html_()) < 300_000
    assert len(one._repr_png_()) < 300_000


def test_plot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    (one,) = explained("grad-cam")
    axes = one.plot()
    assert axes.get_title() == f"{one.title}\n{one.caption}"
    assert pyplot.get_fignums() == []  # nothing is left for pyplot to show or to leak
    _, bar = axes.figure.axes
    assert bar.get_ylim() == (one.scale.low, one.scale.high)
    _, given = pyplot.subplots()
    assert one.plot(given) is given
    assert given.get_images()[0].get_array().shape == (293, 440, 3), "a small image is enlarged"
    assert given.get_images()[0].get_extent() == [-0.5, 59.5, 39.5, -0.5], "the axes are in pixels of the image"
    pyplot.close("all")


@pytest.mark.parametrize("ending", ["svg", "pdf"])
def test_text_in_vector_figures_is_text(ending, tmp_path):
    """In the SVG it can be found; the PDF has fonts (TrueType), and no outlines of letters (Type 3)."""
    pytest.importorskip("matplotlib")
    found = deepviz.explain(good(), [picture(), picture(40, 60)], ["gradient", "grad-cam"], target=[0, 1])
    alone = found[1].save(tmp_path / f"one.{ending}").read_bytes()
    sheet = deepviz.save_figure(found, tmp_path / f"sheet.{ending}").read_bytes()
    assert sheet == deepviz.save_figure(found, tmp_path / f"again.{ending}").read_bytes()
    if ending == "pdf":
        for content in (alone, sheet):
            assert content.startswith(b"%PDF")
            assert b"/Subtype /TrueType" in content or b"/CIDFontType2" in content
            assert b"/Subtype /Type3" not in content
        return
    for text in (found[1].title, escape(f"{found[1].target} · {found[1].detail}")):
        assert f">{text}</text>" in alone.decode()
    drawn = sheet.decode()
    for one in found:
        for text in (one.title, one.detail, one.source, str(one.target), f"{one.scale.high:.2g}"):
            assert not text or f">{escape(text)}</text>" in drawn
    assert drawn.count("<image ") == 4 + 2 * len(found), "images, maps and bars"


def test_figures_have_two_endings(tmp_path):
    with pytest.raises(OutputError, match=r"\.pdf, \.svg"):
        deepviz.save_figure(explained(), tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="no explanations"):
        deepviz.save_figure([], tmp_path / "sheet.pdf")


def test_plot_without_matplotlib_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'deepviz[plot]'")):
        explained()[0].plot()


def test_a_sheet_has_a_section_per_class():
    one = deepviz.sheet(explained(["gradient", "grad-cam"]))
    two = deepviz.sheet(explained(["gradient", "grad-cam"], target=[0, 1]))
    assert two.width == one.width
    assert two.height > 1.4 * one.height


def test_a_sheet_of_nothing():
    with pytest.raises(ValueError, match="no explanations"):
        deepviz.sheet([])


def test_a_sheet_of_several_images_has_a_row_for_each():
    """It begins with the image, and what is the same picture is one row, whatever it is called."""
    other = deepviz.explain(good(), picture(seed=1), "gradient", target=0)
    one, two = deepviz.sheet(other), deepviz.sheet(explained() + other)
    assert two.width >= one.width
    three = deepviz.sheet(explained() + other + deepviz.explain(good(), picture(seed=2), "gradient", target=0))
    row = three.height - two.height
    assert 440 * 2 / 3 < row < 500  # a picture, its caption and the heading
    renamed = [replace(one, source="other.png") for one in explained("grad-cam")]
    assert deepviz.sheet(explained() + renamed).size == deepviz.sheet(explained(["gradient", "grad-cam"])).size


def test_a_sheet_compares_pictures_not_names():
    one, other = (deepviz.viz_backprop(network(), x, target=0) for x in torch.randn(2, 3, 32, 32))
    assert one[0].source == other[0].source == "tensor"
    elsewhere = replace(one[0], geometry=Geometry((32, 32), (0.0, 0.0, 16.0, 16.0)))
    alone = deepviz.sheet(one).height
    assert deepviz.sheet(one + other).height > alone
    assert deepviz.sheet([one[0], elsewhere]).height > alone


def test_two_callables_of_the_same_name_are_two_sections():
    targets = [lambda scores: scores[:, 0], lambda scores: 1 * scores[:, 0]]
    two = deepviz.viz_backprop(network(), torch.ones(3, 32, 32), target=targets)
    same = [two[0], replace(two[0])]
    assert two[0].target != two[1].target
    assert two[0].target.function is targets[0]
    assert deepviz.sheet(two).height > deepviz.sheet(same).height
    name = f"lambda: {two[0].target.score:.3g}"
    assert _headings(one.target for one in two) == [name, f"{name} (2)"]


def test_a_callable_that_has_no_hash():
    @dataclass
    class First:
        index: int = 0

        def __call__(self, scores):
            return scores[:, self.index]

    deepviz.sheet(deepviz.viz_backprop(network(), torch.ones(3, 32, 32), target=[First(), First(1)]))


def test_random_weights_stand_in_every_caption():
    drawn = replace(good(), weights="random")
    found = deepviz.explain(drawn, picture(), ["gradient", "grad-cam"], target=[0, 1])
    assert [one.caption.endswith(" · random weights") for one in found] == [True] * 4
    assert found[1].caption == f"{found[1].target} · 3 · random weights"
    assert found[0].tile().detail == found[0].caption
    assert "random weights" in found[0]._repr_html_()
    assert "random weights" not in explained()[0].caption + explained()[0]._repr_html_()
    assert [one.detail for one in found[:2]] == ["random weights", "3 · random weights"]  # under a class's heading


def test_random_weights_stand_on_the_plot_and_at_the_head_of_the_sheet(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    (one,) = deepviz.viz_backprop(replace(good(), weights="random"), picture())
    assert one.plot().get_title().endswith("random weights")
    pyplot.close("all")
    titles = []
    monkeypatch.setattr(explanation, "draw_sheet", lambda title, *arguments, **options: titles.append(title))
    deepviz.sheet([one])
    assert titles == ["image · random weights"]


def test_a_tile_is_drawn_at_its_own_size_on_the_photograph_of_any():
    large = picture(60, 40).resize((3000, 2000), Image.Resampling.BICUBIC)
    for one in deepviz.explain(good(), large, ["gradient", "grad-times-image", "grad-cam"], target=0):
        tile = one.tile()
        assert tile.picture.size == (440, 293)
        assert tile.scale == one.scale
        whole = one.overlay().resize(tile.picture.size, Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(tile.picture).astype(float) - np.asarray(whole)).mean() < 1.5


def test_a_small_image_is_enlarged_on_the_sheet_with_its_map_at_full_detail():
    """Its pixels are squares, and the map is drawn between them."""
    image = picture(8, 8)
    (one,) = deepviz.explain(good(), image, "gradient", target=0)
    blank = replace(one, attribution=torch.zeros_like(one.attribution), method=GradCAM())
    tile = np.asarray(blank.tile().picture)[20:-20, 20:-20]
    assert one.tile().picture.size == (440, 440)
    seen = {tuple(pixel) for pixel in tile.reshape(-1, 3)}
    assert len(seen) <= 2 * 64, "as they are, or dimmed"
    shown = np.asarray(one.tile().picture).astype(int)
    assert len(np.unique(shown[200:240, 200:240].reshape(-1, 3), axis=0)) > 40


@pytest.mark.filterwarnings("ignore:.*too small for a useful")
@pytest.mark.parametrize("size", [(1, 200), (200, 1), (1, 3000), (3000, 1)])
def test_the_map_of_a_thin_image_can_be_seen(size, tmp_path):
    (one,) = deepviz.explain(good(), picture(*size), "grad-cam(relu=False)", target=0)
    strong = replace(one, attribution=torch.ones_like(one.attribution))
    for drawn in (strong.tile().picture, Image.open(strong.save(tmp_path / "map.png"))):
        assert min(drawn.size) >= 16
        end = np.array([*strong.heatmap().getpixel((0, 0))])
        seen = (np.abs(np.asarray(drawn) - end.astype(float)).max(2) < 60).any
        assert seen(0).sum() >= 6
        assert seen(1).sum() >= 6


def test_the_sheet_says_how_much_the_model_saw_and_what_was_done_to_the_image(monkeypatch):
    said = []
    monkeypatch.setattr("deepviz.results.explanation.draw_sheet", lambda *_, footer, **__: said.append(footer))
    image = Image.fromarray(np.full((50, 400), 30_000, np.uint16))
    model = LoadedModel(network(), "small", deepviz.Preprocess(32, crop=1.0))
    found = deepviz.explain(model, image, "gradient", target=0)
    deepviz.sheet(found)
    deepviz.sheet([replace(found[0], geometry=Geometry.whole((400, 50)), notes={})])
    first, last = said
    version = f"small (as given) · DeepViz {found[0].versions['deepviz']}"
    assert first.split("\n") == ["16 bits scaled to 8", "the model saw the middle 12 % of the width", version]
    assert last == version


def test_the_sheet_has_the_best_classes_and_the_explained_one(monkeypatch):
    shown = []
    monkeypatch.setattr(
        "deepviz.results.explanation.draw_sheet", lambda *_, predictions, **__: shown.append(predictions)
    )
    worst = torch.ones(3, 32, 32)
    (best,) = deepviz.viz_backprop(network(), worst)
    (one,) = deepviz.viz_backprop(network(), worst, target=int(best.predictions[-1][0].split()[-1]))
    fewer = replace(one, predictions=one.predictions[:3])
    deepviz.sheet([fewer])
    deepviz.sheet([one])
    deepviz.sheet([best], predictions=[("given", 0.5)])
    explained = (one.target.label, one.target.probability)
    assert shown == [[*one.predictions[:3], explained], [*one.predictions[:4], explained], [("given", 0.5)]]


def test_the_scale_in_a_notebook_is_in_plain_numbers():
    (one,) = explained("grad-times-image")
    small = replace(one, attribution=one.attribution * 1e-6 / one.scale.high)
    assert f"<small>-{small.scale.high:.3g}</small>" in small._repr_html_()
    assert f"<small>{small.scale.high:.3g}</small>" in small._repr_html_()
    assert f"{small.scale.high:.3g}" == "1e-06"
    assert "<<" not in small._repr_html_()
