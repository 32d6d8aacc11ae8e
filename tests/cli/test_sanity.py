import csv
import json
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deepviz
from deepviz.cli import run
from deepviz.cli import sanity as cli_sanity
from deepviz.models import load_model
from deepviz.objectives import Channel, Logit
from deepviz.results.sanity import key_of
from deepviz.runs.verdicts import recall

QUICK = ["--model", "small_models:good", "-m", "gradient", "--stages", "2"]


@pytest.fixture
def sanity(tmp_path, monkeypatch, capsys):
    """`deepviz sanity` with these arguments, in a folder with one photograph: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("cat.png")

    def checked(*arguments):
        code = run(["sanity", *map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return checked


@pytest.mark.parametrize(
    ("target", "objective"),
    [("2", Logit(2)), ("lynx - 0.5 * red fox", Logit(2) - 0.5 * Logit(1)), ('channel("0", 3)', Channel("0", 3))],
)
def test_a_target_is_explained(sanity, target, objective):
    """As `deepviz.sanity_check` does with the objective."""
    code, out, _ = sanity("cat.png", *QUICK, "--target", target, "--json")
    assert code == 0
    expected = deepviz.sanity_check(load_model("small_models:good"), "cat.png", "gradient", stages=2, target=objective)
    found, wanted = json.loads(out), expected.as_json()
    assert found["targets"] == wanted["targets"]
    assert found["similarities"] == wanted["similarities"]


def test_each_of_several_targets_has_a_strip(sanity):
    code, out, err = sanity("cat.png", *QUICK, "--target", "1", "--target", "lynx", "--json")
    assert (code, err) == (0, "")
    assert [one.rsplit(" ", 2)[0] for one in json.loads(out)["targets"]] == ["red fox", "lynx"]
    strips = [Path("deepviz-out", name).read_bytes() for name in ("cat_sanity.png", "cat-2_sanity.png")]
    assert strips[0] != strips[1]


def test_images_of_one_name_in_two_folders(sanity):
    """Tables call each by its path, as `deepviz evaluate` does; also those that an earlier run has checked."""
    for folder in ("photos/a", "photos/b"):
        Path(folder).mkdir(parents=True)
        Path(folder, "1.png").write_bytes(Path("cat.png").read_bytes())
    for again in ([], ["--resume"]):
        assert sanity("photos", *QUICK, *again)[0] == 0
        with Path("deepviz-out/sanity_values.csv").open(newline="") as file:
            assert {line["image"] for line in csv.DictReader(file)} == {"a/1.png", "b/1.png"}
        images = json.loads(Path("deepviz-out/sanity.json").read_text())["images"]
        assert images == ["a/1.png", "b/1.png"]


def test_a_target_that_is_none(sanity):
    code, out, err = sanity("cat.png", *QUICK, "--target", "linx - lynx")
    assert (code, out) == (3, "")
    assert "no class named 'linx'; did you mean 'lynx'" in err


def test_a_strip_the_curves_and_a_verdict(sanity):
    code, out, err = sanity("cat.png", *QUICK)
    assert (code, err) == (0, "")
    assert out.startswith("Gradient  similarity ")
    names = ["cat_sanity.png", "sanity.json", "sanity.csv", "sanity_values.csv", "sanity_curves.png"]
    assert sorted(os.listdir("deepviz-out")) == sorted([*names, "sanity.question.json", "sanity.images.jsonl"])
    assert all(str(Path("deepviz-out", name)) in out for name in names)
    kept = json.loads(Path("deepviz-out/sanity.json").read_text())
    (remembered,) = recall(key_of(load_model("small_models:good")))["gradient"]["all"]  # of the one image, in 4 digits
    assert remembered == pytest.approx(kept["kept"]["absolute-spearman"][0], abs=6e-5)


def test_json_alone_on_stdout(sanity):
    code, out, _ = sanity("cat.png", *QUICK, "--json", "--mode", "independent")
    assert code == 0
    found = json.loads(out)
    assert not found["cascading"]
    assert (
        recall(key_of(load_model("small_models:good"))) == {}
    )  # a part of the layers at a time says nothing about all


def test_a_photograph_that_is_none_is_left_out(sanity):
    Path("dog.png").write_bytes(b"none")
    code, out, err = sanity("cat.png", "dog.png", *QUICK)
    assert code == 4
    assert "1 image," in out
    assert "dog.png is not an image" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--stages", "0"], 2, "--stages must be at least 1"),
        (["--mode", "sideways"], 2, "sideways"),
        (["-m", "gradeint"], 2, "did you mean 'gradient'"),
        (["--model", "small_models:nan_weights"], 3, "NaN"),
    ],
)
def test_mistakes_are_one_line(sanity, arguments, code, said):
    found, out, err = (
        sanity("cat.png", "--model", "small_models:good", *arguments)
        if "--model" not in arguments
        else (sanity("cat.png", *arguments))
    )
    assert (found, out) == (code, "")
    assert said in err


def test_interrupted_it_keeps_what_is_done(sanity, monkeypatch):
    import deepviz.cli.sanity as command

    randomize_items = command.randomize_items

    def interrupted(*arguments, **options):
        yield from list(randomize_items(*arguments, **options))[:1]
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "randomize_items", interrupted)
    code, out, err = sanity("cat.png", *QUICK, "--json")
    assert code == 130
    assert json.loads(out)["interrupted"] is True
    assert "interrupted after 1 of 1 images: deepviz-out/cat_sanity.png" in err


def test_the_truth_of_a_file_is_explained(sanity):
    Path("truth.csv").write_text("file,class\ncat.png,lynx\n")
    Path("names.json").write_text('["a", "lynx", "b", "c", "d"]')
    code, out, err = sanity("cat.png", *QUICK, "--truth", "truth.csv", "--labels", "names.json", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["targets"][0].startswith("lynx")
    Path("truth.csv").write_text("file,class\ndog.png,lynx\n")
    code, _, err = sanity("cat.png", *QUICK, "--truth", "truth.csv", "-o", "other")
    assert (code, err) == (3, "deepviz: cat.png: it has no line in the file of true classes\n")


def test_sub_folders_and_other_questions_have_their_places(sanity):
    for name in ("photos/a/1.png", "photos/1.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(Path("cat.png").read_bytes())
    assert sanity("photos", *QUICK)[0] == 0
    assert sanity("photos", *QUICK, "--seed", "1")[2].endswith("these are in deepviz-out/sanity-2\n")
    strips = sorted(str(path.relative_to("deepviz-out")) for path in Path("deepviz-out").rglob("*_sanity.png"))
    assert strips == ["1_sanity.png", "a/1_sanity.png", "sanity-2/1_sanity.png", "sanity-2/a/1_sanity.png"]


@pytest.mark.parametrize("there", [False, True], ids=["no home", "read-only"])
def test_verdicts_that_cannot_be_kept_cost_nothing_else(sanity, monkeypatch, there):
    def home():
        if there:
            return Path("/dev/null")
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    code, out, err = sanity("cat.png", *QUICK)
    assert code == 0
    assert "cat_sanity.png" in out
    assert err.startswith("deepviz: the verdicts were not saved: ")
    assert err.count("\n") == 1
    assert recall("any") == {}
    assert not Path("~").exists()


def photographs():
    Path("photos").mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{seed}.png")


@pytest.mark.parametrize("targets", [[], ["1", "lynx"]], ids=str)
def test_an_interrupted_run_is_gone_on_with(sanity, monkeypatch, targets):
    """The result is that of a run that was not interrupted, and no image is checked twice."""
    import deepviz.cli.sanity as command

    photographs()
    words = ["photos", *QUICK, "-m", "grad-cam", "--json", *(word for one in targets for word in ("--target", one))]
    whole = sanity(*words, "-o", "whole")[1]
    Path("photos/1.png").rename("1.png")
    assert sanity(*words)[0] == 0
    Path("1.png").rename("photos/1.png")
    randomize_items, names = command.randomize_items, []

    def watched(loaded, items, *arguments, **options):
        def seen():
            for item in items:
                names.append(item.image.name)
                yield item

        return randomize_items(loaded, seen(), *arguments, **options)

    monkeypatch.setattr(command, "randomize_items", watched)
    code, out, err = sanity(*words, "--resume")
    assert (code, names) == (0, ["1.png"])
    assert "deepviz: 2 of 3 images are done already\n" in err
    assert json.loads(out) == json.loads(whole)
    for file in ("sanity.csv", "sanity_values.csv"):
        assert Path("deepviz-out", file).read_text() == Path("whole", file).read_text()
    assert sorted(path.name for path in Path("deepviz-out").glob("*_sanity.png")) == sorted(
        path.name for path in Path("whole").glob("*_sanity.png")
    )
    names.clear()
    Path("deepviz-out/2_sanity.png").unlink()
    assert sanity(*words, "--resume")[1] == out
    assert names == ["2.png"], "its strip is gone"
    names.clear()
    code, _, err = sanity(*words, "--resume", "--seed", "1")
    assert names == ["0.png", "1.png", "2.png"]
    assert "has results of another question; these are in deepviz-out/sanity-2" in err


@pytest.mark.parametrize("format", ["csv", "markdown", "latex"])
def test_the_result_as_text_for_elsewhere_is_alone_on_stdout(sanity, format):
    code, out, err = sanity("cat.png", *QUICK, "--format", format)
    assert code == 0
    start = {"csv": "method,layers random,mean", "markdown": "|  | 67% of the layers", "latex": "% 1 image, small"}
    assert out.startswith(start[format])
    assert "Gradient" in out
    assert "deepviz: deepviz-out/cat_sanity.png, deepviz-out/sanity.json" in err


@pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
def test_a_budget_is_that_of_every_method_which_takes_one(sanity):
    common = ["cat.png", "--model", "small_models:good", "--stages", "2", "--json"]
    code, out, _ = sanity(*common, "-m", "rise(cells=3)", "--budget", "70")
    assert code == 0
    expected = json.loads(sanity(*common, "-m", "rise(cells=3, max_passes=70)")[1])
    assert json.loads(out)["similarities"] == expected["similarities"]


def test_the_maps_of_images_that_are_done_are_not_kept(sanity, monkeypatch):
    """Of each image the numbers remain; its maps, for every stage and method, would fill the memory."""
    for number in range(5):
        Image.effect_noise((40, 40), number + 9).save(f"{number}.png")
    alive, most = [], []
    randomize = cli_sanity.randomize_items

    def watched(*arguments, **options):
        for one in randomize(*arguments, **options):
            alive.append(weakref.ref(one))
            most.append(sum(ref() is not None for ref in alive))
            yield one

    monkeypatch.setattr(cli_sanity, "randomize_items", watched)
    code, out, _ = sanity(*(f"{number}.png" for number in range(5)), *QUICK, "--json")
    assert (code, len(json.loads(out)["images"])) == (0, 5)
    assert len(most) == 5
    assert max(most) <= 2


def test_the_images_of_a_run_are_checked_by_its_methods(sanity, tmp_path):
    pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.effect_noise((40, 40), number + 9).save(f"images/{number}.png")
    model = load_model("small_models:good")
    deepviz.run(model, tmp_path / "images", ["gradient", "grad-times-image"], out=tmp_path / "run")
    code, out, err = sanity("run", *QUICK[:2], "--stages", "2", "--json")
    assert (code, err) == (0, "")
    _, direct, _ = sanity("images", *QUICK, "-m", "grad-times-image", "--json", "-o", "other")
    found, wanted = json.loads(out), json.loads(direct)
    assert found["methods"] == wanted["methods"]
    assert found["similarities"] == wanted["similarities"]
    deepviz.run(model, [np.full((8, 8, 3), 9, np.uint8)] * 2, "gradient", out=tmp_path / "in memory")
    code, _, err = sanity("in memory", *QUICK)
    assert code == 2
    assert "the images of this run are in no files of their own: give the images" in err
