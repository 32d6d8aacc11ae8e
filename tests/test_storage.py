import io
import json
import sys
import warnings
import zipfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

import deepviz
from deepviz import DeepVizError, Explanation, catalog, load_explanations, save_explanations
from deepviz.errors import MethodError, OutputError, StoredError
from deepviz.geometry import Geometry
from deepviz.methods import RISE, GradCAM, Gradient, IntegratedGradients, Method, SmoothGrad
from deepviz.results.explanation import ExplainedTarget
from deepviz.results.storage import WEIGHTS, StoredMethod, packed, unpacked
from small_models import good, network

SIZE = (40, 30)


def photo(seed=0, size=SIZE):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def explained(values=None, method=None, *, image=None, target=None, **notes):
    method = method or Gradient()
    shape = (1, 4, 5) if method.coarse else (3, 8, 9)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)) if values is None else values
    return Explanation(
        attribution=values,
        image=image or photo(),
        geometry=Geometry(SIZE, (2.5, 0.0, 37.25, 30.0)),
        method=method,
        target=target or ExplainedTarget(281, "tabby, tabby cat", 0.391, 7.25),
        model="net (made up)",
        source="Kätzchen 猫.png",
        notes=notes,
        versions={"deepviz": "0.1.0", "torch": "2.6"},
    )


def again(*explanations):
    return unpacked(packed(explanations), "results.deepviz")


def header_of(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return json.loads(archive.read("header.json"))


def changed(content, *, header=None, files=(), without=()):
    """The same file with another header (a function of it), and other or fewer members."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        kept = {name: old.read(name) for name in old.namelist() if name not in without} | dict(files)
        if header is not None:
            words = json.loads(kept["header.json"])
            kept["header.json"] = json.dumps(header(words) or words).encode()
        for name, data in kept.items():
            new.writestr(name, data)
    return out.getvalue()


SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))
VALUES = arrays.arrays(np.float32, SHAPES, elements=st.floats(-(2.0**127), 2.0**127, width=32))


@given(VALUES)
def test_values_come_back_to_half_a_step(values):
    (back,) = again(explained(torch.from_numpy(values)))
    found = back.attribution.numpy()
    assert found.dtype == np.float32
    assert found.shape == values.shape
    low, high = float(values.min()), float(values.max())
    allowed = (high - low) / 65535 / 2 * (1 + 1e-9) + np.spacing(np.float32(max(abs(low), abs(high))))
    assert np.abs(found.astype(float) - values.astype(float)).max() <= allowed
    assert float(found.min()) == low


def test_zero_stays_zero_in_a_map_that_starts_there():
    values = torch.rand(1, 7, 7).clamp(min=0.5) - 0.5
    (back,) = again(explained(values, GradCAM()))
    assert torch.equal(back.attribution == 0, values == 0)


@pytest.mark.parametrize("value", [0.0, -3.5, 1e-40])
def test_a_constant_map_comes_back_exactly(value):
    (back,) = again(explained(torch.full((3, 8, 9), value)))
    assert torch.equal(back.attribution, torch.full((3, 8, 9), value))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="NaN or infinity"):
        packed([explained(torch.full((3, 8, 9), value))])


def test_everything_but_the_map_comes_back_as_it_was():
    notes = {
        "layer": "features.3",
        "grid": "(7, 7)",
        "overridden": {"relu": 17},
        "completeness gap": 0.0123456789,
        "warnings": ("read with care", "so it is"),
        "photograph": ("16 bits scaled to 8",),
        "checks": {"deletion": 0.1, "of a random map": {"deletion": 0.3}, "kept": None, "in words": "good"},
        WEIGHTS: "ab" * 32,
    }
    one = explained(**notes)
    (back,) = again(one)
    assert back.notes == one.notes
    for name in ("geometry", "method", "target", "model", "source", "versions", "layer", "caption", "title"):
        assert getattr(back, name) == getattr(one, name)
    assert np.array_equal(np.asarray(back.image), np.asarray(one.image))


def test_it_is_drawn_as_before():
    one = explained(torch.randint(0, 65536, (3, 8, 9)).float())  # values that are kept exactly, if both ends are there
    one.attribution[0, 0, :2] = torch.tensor([0.0, 65535.0])
    (back,) = again(one)
    assert torch.equal(back.attribution, one.attribution)
    assert back.overlay().tobytes() == one.overlay().tobytes()


@pytest.mark.parametrize("stem", catalog.METHODS)
def test_every_method_comes_back_by_name_with_its_options(stem):
    method = catalog.METHODS[stem]()
    (back,) = again(explained(method=method))
    assert back.method == method
    assert header_of(packed([explained(method=method)]))["results"][0]["method"]["is"] == stem


def test_methods_inside_methods():
    method = SmoothGrad(of=SmoothGrad(of=IntegratedGradients(steps=7, baseline="black"), samples=2), noise=0.25)
    assert again(explained(method=method))[0].method == method


def test_photographs_are_stored_once():
    shared = photo()
    twin, other = photo(), photo(1)
    content = packed([explained(image=image) for image in (shared, shared, twin, other)])
    assert len(header_of(content)["photographs"]) == 2
    images = [one.image for one in unpacked(content, "")]
    assert images[0] is images[1] is images[2]
    assert images[3].tobytes() == other.tobytes()


def test_the_colour_profile_of_a_photograph_is_left_out():
    image = photo()
    image.info["icc_profile"] = b"profile"
    (back,) = again(explained(image=image))
    assert back.image.info.get("icc_profile") is None
    assert back.image.tobytes() == image.tobytes()


def test_a_callable_target_comes_back_by_name():
    target = ExplainedTarget(None, "brightness", None, None, function=lambda output: output.sum(1))
    (back,) = again(explained(target=target))
    assert (back.target.label, back.target.index, back.target.function) == ("brightness", None, None)


@dataclass(frozen=True)
class Stranger(Method):
    """From outside the package."""

    strength: float = 2.0

    @property
    def view(self):
        return "sum"

    def maps(self, session):
        return session.image()


def strangers_module(monkeypatch):
    module = type(sys)("a_strangers_module")
    module.Stranger = Stranger
    monkeypatch.setattr(Stranger, "__module__", module.__name__)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_a_strangers_method_whose_module_is_imported(monkeypatch):
    strangers_module(monkeypatch)
    assert again(explained(method=Stranger(3.0)))[0].method == Stranger(3.0)


def test_a_strangers_method_that_is_not_imported_is_drawn_but_not_called(monkeypatch):
    strangers_module(monkeypatch)
    one = explained(method=Stranger(3.0))
    content = packed([one])
    monkeypatch.delitem(sys.modules, "a_strangers_module")
    (back,) = unpacked(content, "")
    assert isinstance(back.method, StoredMethod)
    assert back.title == one.title == "Stranger, strength 3.0"
    assert (back.method.view, back.signed) == ("sum", True)
    assert back.overlay().size == one.overlay().size
    with pytest.raises(MethodError, match=r"cannot be called here: import a_strangers_module first"):
        back.method(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)), torch.rand(1, 3, 2, 2))
    # and its name and options are not lost when it is saved again
    assert header_of(packed([back]))["results"][0]["method"] == header_of(content)["results"][0]["method"]


def test_a_file_never_makes_python_import(monkeypatch):
    content = changed(packed([explained()]), header=lambda words: set_method(words, "antigravity:Method"))
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    (back,) = unpacked(content, "")
    assert "antigravity" not in sys.modules
    assert isinstance(back.method, StoredMethod)


def set_method(words, name, **options):
    words["results"][0]["method"] = {"name": name, "options": options}


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("gradient", {"unheard": 1}, "Gradient has unheard, which this version does not know"),
        ("no-such-method", {}, "'no-such-method' is not one of this version"),
        ("os:system", {"command": "true"}, "os has no system"),
        ("grad-cam", {}, "it is drawn differently"),
        ("integrated-gradients", {"baseline": {"not stored": "tensor (3, 1, 1)"}}, "its baseline, tensor"),
    ],
)
def test_a_method_that_cannot_be_made_stands_as_itself(name, options, reason):
    content = changed(packed([explained()]), header=lambda words: set_method(words, name, **options))
    (back,) = unpacked(content, "")
    assert isinstance(back.method, StoredMethod)
    assert reason in back.method.reason
    assert back.title == "Gradient"
    assert back.overlay().size == SIZE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_tensors_among_the_options_come_back(dtype):
    method = SmoothGrad(of=IntegratedGradients(baseline=torch.rand(3, 1, 1, dtype=dtype)), samples=2)
    (back,) = again(explained(method=method))
    assert back.method == method


def test_a_layer_given_as_a_module_is_stored_by_its_name():
    model = network()
    (back,) = again(*deepviz.explain(model, torch.rand(3, 32, 32), SmoothGrad(of=GradCAM(model[3]), samples=2)))
    assert back.method == SmoothGrad(of=GradCAM("3"), samples=2)
    method = SmoothGrad(of=GradCAM(layer=torch.nn.ReLU()), samples=2)
    (nameless,) = again(explained(method=method))
    assert "its layer, ReLU is not stored" in nameless.method.reason
    assert nameless.title == str(method)
    assert again(nameless)[0].method == nameless.method  # and once more, as it stood in the file


def test_notes_that_json_has_no_word_for():
    (back,) = again(explained(gap=float("inf"), count=np.float32(0.5), what={1: (2, 3)}, who=Path("x")))
    assert back.notes == {"gap": "inf", "count": 0.5, "what": {"1": (2, 3)}, "who": "x"}


def test_the_same_results_give_the_same_file():
    assert packed([explained()]) == packed([explained()])


def test_the_format_is_as_documented():
    one = explained(layer="conv", checks={"deletion": 0.25})
    content = packed([one])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["maps/0.u16", "photographs/0.png", "header.json"]
        header = json.loads(archive.read("header.json"))
        levels = np.frombuffer(archive.read("maps/0.u16"), "<u2").reshape(3, 8, 9)
        assert Image.open(io.BytesIO(archive.read("photographs/0.png"))).tobytes() == one.image.tobytes()
    assert (header["format"], header["version"]) == ("deepviz results", 2)
    (result,) = header["results"]
    assert set(result) == {
        *("method", "title", "target", "layer", "geometry", "view", "coarse", "model", "weights sha256", "source"),
        *("metrics", "notes", "versions", "photograph", "map", "input", "space", "predictions", "detections"),
        *("columns", "words"),
    }
    page = (Path(__file__).parent.parent / "docs" / "results.md").read_text(encoding="utf-8")
    assert [name for name in result if f"`{name}`" not in page] == []
    stored = result["map"]
    values = stored["low"] + levels * (stored["high"] - stored["low"]) / 65535
    np.testing.assert_allclose(values, one.attribution, atol=(stored["high"] - stored["low"]) / 65535 / 1.99)
    assert result["metrics"] == {"deletion": 0.25}


def test_the_path(tmp_path):
    path = save_explanations([explained()], tmp_path / "new" / "cat")
    assert path == tmp_path / "new" / "cat.deepviz"
    assert load_explanations(str(path))[0].method == Gradient()
    assert list(path.parent.iterdir()) == [path]
    assert save_explanations(explained(), path) == path  # one alone, over another


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="no explanations"):
        save_explanations([], tmp_path / "x")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        save_explanations([explained()], tmp_path / "file" / "x.deepviz")


def test_real_results_come_back(tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(3))
    net(torch.zeros(1, 3, 8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", deepviz.DeepVizWarning)
        made = deepviz.explain(net, torch.rand(2, 3, 8, 8), top_k=2)
    back = load_explanations(save_explanations(made, tmp_path / "made"))
    assert [one.notes for one in back] == [one.notes for one in made]
    assert [one.method for one in back] == [one.method for one in made]
    for one, other in zip(back, made, strict=True):
        step = float(np.ptp(other.attribution.numpy())) / 65535
        assert float((one.attribution - other.attribution).abs().max()) <= 0.51 * step + 1e-12


def refused(content):
    with pytest.raises(StoredError) as error:
        unpacked(content, "cat.deepviz")
    assert isinstance(error.value, DeepVizError)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("cat.deepviz")
    return text


def test_no_file(tmp_path):
    with pytest.raises(StoredError, match="cannot read"):
        load_explanations(tmp_path / "none.deepviz")
    with pytest.raises(StoredError, match=r"holds no \.deepviz file"):
        load_explanations(tmp_path)


def test_a_folder_is_all_of_its_files(tmp_path):
    """As `deepviz explain -o` leaves them: one for each photograph, in a folder of its own."""
    made = deepviz.explain(good(), torch.rand(2, 3, 32, 32), ["gradient", "grad-cam"])
    for name, part in (("b", made[:2]), ("a", made[2:])):
        (tmp_path / name).mkdir()
        save_explanations(part, tmp_path / name / "explanations.deepviz")
    found = load_explanations(tmp_path)
    assert [one.title for one in found] == [one.title for one in made[2:] + made[:2]]
    np.testing.assert_allclose(found[0].values, made[2].values, atol=1e-3)


def test_foreign_files():
    assert "is not a file of stored results, or it is truncated" in refused(b"")
    assert "is not a file of stored results, or it is truncated" in refused(b"\x89PNG\r\n" + bytes(200))
    assert "it has no header.json" in refused(changed(packed([explained()]), without=["header.json"]))
    assert "is not a file of stored results" in refused(changed(packed([explained()]), header=lambda words: ["x"]))


def test_a_newer_format_says_what_to_do():
    content = changed(packed([explained()]), header=lambda words: words | {"version": 3})
    assert refused(content).endswith("has format 3, this version of DeepViz reads up to 2: pip install -U deepviz")


def unpacked_or_refused(content):
    """What is in it, nothing if it is refused; any other error is a bug."""
    with suppress(StoredError):
        return unpacked(content, "cat.deepviz")
    return []


@given(st.data())
def test_truncated_and_damaged_files(data):
    content = bytearray(packed([explained()]))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    unpacked_or_refused(bytes(content))  # what is damaged may be what nobody reads, such as a file's date


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.data())
def test_headers_that_make_no_sense(data):
    def spoil(words):
        at = words
        while True:
            key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            if isinstance(at[key], (dict, list)) and at[key] and data.draw(st.booleans()):
                at = at[key]
            else:
                break
        if data.draw(st.booleans()) and isinstance(at, dict):
            del at[key]
        else:
            at[key] = data.draw(PLAIN)

    content = changed(packed([explained()]), header=spoil)
    assert all(one.overlay().size == one.image.size for one in unpacked_or_refused(content))


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [3, 8, 10]},
        {"shape": [3, 8]},
        {"shape": [-3, -8, 9]},
        {"shape": [3, 8, 10**6]},
        {"shape": [0, 8, 9]},
        {"low": 2.0, "high": 1.0},
        {"high": float("inf")},
        {"high": 1e300},
        {"file": "maps/1.u16"},
        {"file": "../../etc/passwd"},
    ],
)
def test_maps_that_do_not_fit(entry):
    refused(changed(packed([explained()]), header=lambda words: words["results"][0]["map"].update(entry)))


def test_a_photograph_of_another_size_is_refused():
    buffer = io.BytesIO()
    photo(size=(50, 30)).save(buffer, "PNG")
    content = changed(packed([explained()]), files={"photographs/0.png": buffer.getvalue()})
    assert "photographs/0.png is (50, 30), not (40, 30)" in refused(content)


def test_a_photograph_of_another_format_is_refused():
    buffer = io.BytesIO()
    photo().save(buffer, "GIF")
    refused(changed(packed([explained()]), files={"photographs/0.png": buffer.getvalue()}))


def test_huge_photographs_are_refused_unread():
    def huge(words):
        words["photographs"][0]["size"] = [65000, 65000]

    assert "an image of 65000 x 65000 is refused" in refused(changed(packed([explained()]), header=huge))


def test_bombs_are_refused(monkeypatch):
    monkeypatch.setattr("deepviz.results.storage.MOST_BYTES", 10**6)
    monkeypatch.setattr("deepviz.results.storage.MOST_HEADER", 10**5)
    assert "would unpack to" in refused(changed(packed([explained()]), files={"bomb": bytes(2 * 10**6)}))
    long = packed([explained(remark="x" * 2 * 10**5)])
    assert "header.json is not of the size" in refused(long)
    more = changed(packed([explained()]), files={"maps/0.u16": bytes(10**5)})
    assert "maps/0.u16 is not of the size that its header says" in refused(more)


def test_a_small_file_that_names_one_large_map_many_times(monkeypatch):
    monkeypatch.setattr("deepviz.results.storage.MOST_BYTES", 10**7)
    large = packed([explained(torch.rand(3, 80, 90))])
    content = changed(large, header=lambda words: words.update(results=words["results"] * 200))
    assert len(content) < 10**5
    assert "would take more than" in refused(content)


def test_a_photograph_that_the_geometry_is_not_of():
    def other(words):
        words["results"][0]["geometry"]["size"] = [41, 30]

    assert "does not fit" in refused(changed(packed([explained()]), header=other))


def test_a_stored_method_is_a_value():
    one = StoredMethod("a:B", "{}", "B", "sum", True, "gone")
    assert one == replace(one)
    assert (str(one), one.view, one.coarse) == ("B", "sum", True)


def test_standard_errors_come_back_to_half_a_step_and_make_the_same_picture():
    values = torch.rand(1, 6, 7, generator=torch.Generator().manual_seed(1))
    errors = values.flip(-1).square() / 4
    one = replace(explained(values, RISE(), **{"standard error": 0.25, "forward passes": 640}), standard_error=errors)
    content = packed([one, explained()])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert "errors/0.u16" in archive.namelist()
        assert "errors/1.u16" not in archive.namelist()
    found, other = unpacked(content, "results.deepviz")
    assert found.standard_error.numpy() == pytest.approx(errors.numpy(), abs=float(errors.max()) / 65535)
    assert other.standard_error is None
    assert (found.detail, found.method) == ("standard error 25.0 %, 640 passes", RISE())
    assert np.abs(np.asarray(found.error()).astype(int) - np.asarray(one.error())).max() <= 3


def test_standard_errors_of_another_shape_than_the_map_are_refused():
    one = replace(explained(torch.rand(1, 6, 7), RISE()), standard_error=torch.rand(1, 6, 7))
    content = packed([one])

    def turned(header):
        header["results"][0]["standard error"]["shape"] = [1, 7, 6]

    assert "standard errors [1, 7, 6] of a map [1, 6, 7]" in refused(changed(content, header=turned))
