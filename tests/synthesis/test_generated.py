"""What was drawn, and its files."""

import json
import math
import os
from dataclasses import replace

import pytest
import torch
from PIL import Image

from deepviz.errors import DeepVizWarning, OutputError
from deepviz.synthesis import Generated
from deepviz.synthesis.generated import Frame, as_bytes, as_picture, number

MODEL = {"name": "small", "source": "module", "weights": "as given", "sha256": "0"}


def generated(titles=("a cat",), frames=3, channels=3, size=(20, 31), **changed):
    n = len(titles)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(n, channels, *size, generator=generator)
    made = Generated(
        tensor=pixels,
        titles=tuple(titles),
        targets=tuple(range(n)),
        scores=torch.rand(5, n, generator=generator),
        probabilities=torch.rand(5, n, generator=generator),
        final_scores=torch.full((n,), 1.25),
        final_probabilities=torch.full((n,), 0.987),
        importance=torch.rand(n, 1, *size, generator=generator),
        frames=tuple(Frame(step, as_bytes(pixels * step / 9)) for step in range(1, frames + 1)),
        settings={"model": MODEL},
        complete=True,
    )
    return replace(made, **changed)


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """Puts a program of that name on the path, or takes it away."""

    def put(lines):
        folder = tmp_path / "bin"
        folder.mkdir()
        if lines:
            (folder / "ffmpeg").write_text("#!/bin/sh\n" + lines)
            (folder / "ffmpeg").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder) if not lines else f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")

    return put


def test_pictures():
    pixels = torch.tensor([0.0, 0.499 / 255, 0.501 / 255, 1.0, 1.5, -1.0]).view(1, 1, 2, 3)
    assert as_bytes(pixels).flatten().tolist() == [0, 0, 1, 255, 255, 0]
    colours, grey = generated().images[0], generated(channels=1).images[0]
    assert (colours.mode, colours.size) == ("RGB", (31, 20))
    assert (grey.mode, grey.size) == ("L", (31, 20))
    assert as_picture(as_bytes(generated().tensor)[0]).tobytes() == colours.tobytes()


def test_captions():
    made = generated(("a cat", "a dog"), final_probabilities=torch.tensor([0.9876, math.nan]))
    assert made.caption(0) == "a cat · 98.8 %"
    assert made.caption(1) == "a dog · score 1.25"
    assert repr(made) == "Generated(a cat · 98.8 %; a dog · score 1.25, small (as given) · 5 steps)"
    assert "stopped early" in repr(replace(made, complete=False))
    assert "and 2 more" in repr(generated("abcdef"))


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.8])
def test_what_mattered_stays_opaque(keep):
    made = generated(size=(40, 50))
    seen = made.transparent(0, keep)
    assert (seen.mode, seen.size) == ("RGBA", (50, 40))
    assert seen.convert("RGB").tobytes() == made.images[0].tobytes()
    alpha = torch.tensor(list(seen.getchannel("A").tobytes())).view(40, 50)
    # an importance just below the bound rounds to 255 too
    opaque = float((alpha == 255).double().mean())
    assert keep - 1e-3 <= opaque <= keep + 0.05
    importance = torch.nn.functional.avg_pool2d(made.importance[0], 9, 1, 4, count_include_pad=False)[0]
    assert importance[alpha == 255].min() >= importance[alpha < 255].max()


def test_if_nothing_mattered_nothing_is_transparent():
    seen = generated(importance=torch.zeros(1, 1, 20, 31)).transparent()
    assert seen.getchannel("A").getextrema() == (255, 255)


@pytest.mark.parametrize("keep", [0, 1, -0.5, float("nan")])
def test_a_fraction_to_keep(keep):
    with pytest.raises(ValueError, match="keep must be a fraction"):
        generated().transparent(0, keep)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("frames", [1, 2, 30])
def test_files(tmp_path, ffmpeg, channels, frames):
    ffmpeg(None)
    made = generated(("a cat", "a dog"), frames, channels)
    written = made.save(tmp_path / "new" / "folder")
    names = {"a_cat.png", "a_cat_steps.png", "a_cat.gif", "a_dog.png", "a_dog_steps.png", "a_dog.gif"}
    assert {path.name for path in written} == names | {"sheet.png", "generated.json"}
    assert {path.name for path in written[0].parent.iterdir()} == {path.name for path in written}
    for path in written:
        if path.suffix in (".png", ".gif"):
            with Image.open(path) as opened:
                opened.load()
                sizes = {"a_cat.png": (31, 20), "a_dog.gif": (31, 20)}
                assert opened.size == sizes.get(path.name, opened.size)
    with Image.open(written[1]) as opened:
        assert opened.tobytes() == made.images[0].tobytes()
    with Image.open(written[1].with_suffix(".gif")) as opened:
        assert opened.n_frames == frames
        durations = []
        for frame in range(frames):
            opened.seek(frame)
            durations.append(opened.info["duration"])
        assert durations[-1] == 1500
        assert sum(durations[:-1]) == pytest.approx(4000 * (frames - 1) / frames, abs=10 * frames)
    told = json.loads(written[0].read_text())
    assert [image["file"] for image in told["images"]] == ["a_cat.png", "a_dog.png"]
    assert told["steps taken"] == 5
    assert told["complete"] is True


def test_one_image_without_frames(tmp_path):
    written = generated(frames=0).save(tmp_path)
    assert [path.name for path in written] == ["generated.json", "a_cat.png"]
    with pytest.raises(ValueError, match=r"every=\.\.\. or a save_dir"):
        generated(frames=0).strip()


def test_the_strip_goes_from_the_first_frame_to_the_last():
    made = generated(frames=30)
    steps = [frame.step for frame in made._some_frames()]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1], len(steps)) == (1, 30, 8)
    assert [frame.step for frame in generated(frames=2)._some_frames()] == [1, 2]
    assert made.strip(0).width > made.strip(0).height


@pytest.mark.parametrize(
    "titles",
    [
        ("crane", "crane"),
        ("cardigan", "Cardigan"),  # one file where capitals do not count
        ("a", "a", "a_2", "A_1"),
        ("sheet", "b"),
        ("Sheet", "sheet"),
        ("/", "..", ""),
        ("x/y", "x y", "x?y"),
        ("狐", "лиса", "狐"),
        ("long " * 100 + "1", "long " * 100 + "2"),
        ("狐" * 300, "b"),
    ],
)
def test_no_two_images_share_a_file(tmp_path, titles):
    made = generated(titles, frames=1)
    written = [path for path in made.save(tmp_path) if path.suffix != ".mp4"]
    assert len({str(path).casefold() for path in written}) == len(written) == 3 * len(titles) + 2
    assert all(path.parent == tmp_path for path in written)
    for row, image in enumerate(json.loads((tmp_path / "generated.json").read_text())["images"]):
        with Image.open(tmp_path / image["file"]) as opened:
            assert opened.tobytes() == made.images[row].tobytes()
            assert image["title"] == titles[row]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_no_nan_or_infinity(tmp_path, value):
    made = generated(final_scores=torch.tensor([value]), final_probabilities=torch.tensor([math.nan]))
    made.save(tmp_path)

    def refuse(name):
        raise AssertionError(name)

    (image,) = json.loads((tmp_path / "generated.json").read_text(), parse_constant=refuse)["images"]
    assert (image["score"], image["probability"]) == (None, None)
    assert number(torch.tensor(0.5)) == 0.5


def test_a_film_where_there_is_ffmpeg(tmp_path, ffmpeg):
    ffmpeg(f'for last; do :; done\necho "$@" > {tmp_path}/told.txt\ncat > "$last"\n')
    written = generated(channels=1).save(tmp_path / "out")
    (film,) = [path for path in written if path.suffix == ".mp4"]
    assert film == tmp_path / "out" / "a_cat.mp4"
    assert len(film.read_bytes()) == 3 * 20 * 31 * 3  # frames of colours, raw
    assert "-s 31x20 " in (tmp_path / "told.txt").read_text()


def test_a_film_that_fails(tmp_path, ffmpeg):
    ffmpeg('for last; do :; done\nhead -c 9 > "$last"\necho no such codec >&2\nexit 1\n')
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a_cat.mp4").write_bytes(b"an older film")
    with pytest.warns(
        DeepVizWarning, match=r"could not make a_cat\.mp4: no such codec; generated\.json, the pict"
    ) as told:
        written = generated(("a cat", "a dog")).save(tmp_path / "out")
    assert len(told) == 1
    names = {"a_cat.png", "a_cat_steps.png", "a_cat.gif", "a_dog.png", "a_dog_steps.png", "a_dog.gif"}
    assert {path.name for path in written} == names | {"sheet.png", "generated.json"}
    assert all(path.exists() for path in written)
    assert (tmp_path / "out" / "a_cat.mp4").read_bytes() == b"an older film"


def test_an_ffmpeg_that_does_not_run(tmp_path, ffmpeg):
    ffmpeg("")
    (tmp_path / "bin" / "ffmpeg").write_bytes(b"\x7fELF")
    (tmp_path / "bin" / "ffmpeg").chmod(0o755)
    with pytest.warns(DeepVizWarning, match="could not make"):
        generated().save(tmp_path / "out")


def test_the_record_is_there_whatever_fails_after_it(tmp_path, monkeypatch):
    def full(*_):
        raise OutputError("cannot write: no space left")

    monkeypatch.setattr("deepviz.synthesis.generated.write_picture", full)
    with pytest.raises(OutputError, match="no space"):
        generated().save(tmp_path)
    assert json.loads((tmp_path / "generated.json").read_text())["images"][0]["file"] == "a_cat.png"


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        generated().save(tmp_path / "file")


def test_in_a_notebook():
    made = generated(("a <cat>", "b"))
    assert made._repr_png_().startswith(b"\x89PNG")
    html = made._repr_html_()
    assert "a &lt;cat&gt;" in html
    assert "data:image/png;base64," in html
