import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deepviz
from deepviz.cli import run
from deepviz.errors import TargetError
from deepviz.objectives import Logit
from deepviz.runs.places import read_boxes
from deepviz.runs.truth import GroundTruth, read_classes
from small_models import good
from tiny_run import folder_of_images, loaded

QUICK = ["--model", "small_models:good", "-m", "gradient", "--metric", "deletion(steps=4)"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with three photographs, in which commands are run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPVIZ_DEBUG", raising=False)
    Path("photos").mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{seed}.png")
    return tmp_path


@pytest.fixture
def evaluate(here, capsys):
    """`deepviz evaluate` with these arguments: its exit code, stdout and stderr."""

    def evaluated(*arguments):
        code = run(["evaluate", *map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return evaluated


def test_the_table_the_data_and_the_curves(evaluate):
    code, out, err = evaluate("photos", *QUICK, "--metric", "insertion(steps=4)")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["Deletion,", "steps", "4", "↓", "Insertion,", "steps", "4", "↑"]
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "Gradient",
        "Random map",
        "Centred Gaussian",
        "Edge detector",
    ]
    assert lines[5].startswith("3 images, small (as given).")
    kept = json.loads(Path("deepviz-out/evaluation.json").read_text())
    assert [one["source"] for one in kept["images"]] == ["0.png", "1.png", "2.png"]
    table = list(csv.DictReader(Path("deepviz-out/evaluation.csv").read_text().splitlines()))
    assert len(table) == 8
    assert f"{float(table[0]['mean']):.3g}" in lines[1]
    with Image.open("deepviz-out/curves.png") as curves:
        assert curves.width > 1000


def test_json_alone_on_stdout(evaluate):
    code, out, _ = evaluate("photos", *QUICK, "--json", "--no-controls")
    assert code == 0
    found = json.loads(out)
    assert found["rows"] == ["Gradient"]
    assert found["failed"] == {}


def test_the_classes_of_a_file_are_explained(evaluate):
    Path("labels.csv").write_text("file,class\n0.png,2\nsomewhere/1.png,red fox\n2.png,0\n")
    code, out, _ = evaluate("photos", *QUICK, "--truth", "labels.csv", "--json")
    assert code == 0
    assert [one["target"].rsplit(" ", 2)[0] for one in json.loads(out)["images"]] == [
        "lynx",
        "red fox",
        "tabby, tabby cat",
    ]


@pytest.mark.parametrize(
    ("target", "objective"),
    [("2", Logit(2)), ("lynx", Logit(2)), ("lynx - red fox", Logit(2) - Logit(1)), ('label("lynx")', Logit(2))],
)
def test_a_target_is_explained_of_all_images(evaluate, target, objective):
    """As `deepviz.evaluate` does with the objective."""
    metric = "deletion(steps=4, value=score)"
    code, out, _ = evaluate("photos", *QUICK[:4], "--metric", metric, "--target", target, "--json", "--no-controls")
    assert code == 0
    paths = sorted(Path("photos").iterdir())
    expected = deepviz.evaluate(good(), paths, "gradient", metric, target=objective, controls=False)
    found = json.loads(out)["images"]
    assert [one["values"][0][0] for one in found] == pytest.approx(expected.values.ravel().tolist())
    assert [one["target"] for one in found] == [one["target"] for one in expected.as_json()["images"]]


def test_several_targets_are_explained_of_each_image(evaluate):
    def values(*targets):
        given = [word for one in targets for word in ("--target", one)]
        found = json.loads(evaluate("photos", *QUICK, *given, "--json", "--no-controls")[1])
        return [one["values"][0][0] for one in found["images"]]

    both = zip(values("lynx"), values("1"), strict=True)
    assert values("lynx", "1") == pytest.approx([value for of_image in both for value in of_image])


def test_a_photograph_without_a_line_and_one_that_is_none_are_left_out(evaluate):
    Path("photos/3.png").write_bytes(b"none")
    Path("labels.csv").write_text("0.png,2\n2.png,1\n3.png,1\n")
    code, out, err = evaluate("photos", *QUICK, "--truth", "labels.csv")
    assert code == 4
    assert "2 images" in out
    assert "1.png: it has no line in the file of true classes" in err
    assert "3.png is not an image" in err
    assert err.endswith("2 of 4 images failed\n")


def test_a_class_that_there_is_not_costs_one_photograph(evaluate):
    Path("labels.csv").write_text("0.png,2\n1.png,5000\n2.png,no such thing\n")
    code, out, err = evaluate("photos", *QUICK, "--truth", "labels.csv")
    assert code == 4
    assert "1 image, " in out
    assert "1.png: class 5000 is out of range" in err
    assert "2.png: " in err
    assert err.endswith("2 of 3 images failed\n")


def test_a_region_metric_on_a_small_input(evaluate):
    Path("boxes.csv").write_text("".join(f"{n}.png,10,5,50,35\n" for n in range(3)))
    arguments = ["photos", *QUICK[:4], "--boxes", "boxes.csv", "--metric"]
    assert evaluate(*arguments, "top-k-intersection")[0] == 0
    code, _, err = evaluate(*arguments, "top-k-intersection(k=5000)", "-o", "other")
    assert code == 2
    assert "k is 5000 pixels, but the input has 32 x 32" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "give images"),
        (["photos", "--metric", "deletoin"], 2, "did you mean 'deletion'"),
        (["photos", "--metric", "deletion(steps=0)"], 2, "steps must be at least 1"),
        (["photos", "--metric", "deletion(steps=2.5)"], 2, "steps must be a whole number, got 2.5"),
        (["photos", "--metric", "deletion(steps='a')"], 2, "steps must be a whole number, got 'a'"),
        (["photos", "--metric", "deletion(value='prob')"], 2, "value must be probability or score, got 'prob'"),
        (["photos", "--metric", "deletion(precision='bf16')"], 2, "precision must be full or bfloat16"),
        (["photos", "--metric", "deletion(channels='max')"], 2, "channels must be sum, magnitude or None"),
        (["photos", "--metric", "infidelity(baseline=None)"], 2, "infidelity"),
        (["photos", "--metric", "deletion(stps=3)"], 2, "stps"),
        (["photos", "--metric", "deletion(steps=__import__('os'))"], 2, "name(option=value"),
        (["photos", "--metric", "pointing-game"], 2, "needs to know where the object is"),
        (["photos", "--target", "1", "--truth", "labels.csv"], 2, "--truth holds the class of each"),
        (["photos", "--target", "linx - red fox"], 3, "no class named 'linx'"),
        (["nowhere"], 3, "nowhere does not exist"),
        (["photos", "--truth", "nowhere.csv"], 3, "cannot read nowhere.csv"),
        (["photos", "--metric", "pointing-game", "--boxes", "nowhere.csv"], 3, "cannot read nowhere.csv"),
    ],
)
def test_mistakes_are_one_line(evaluate, arguments, code, said):
    found, out, err = evaluate(*arguments, "--model", "small_models:good", "-m", "gradient")
    assert (found, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


def test_one_image_is_open_at_a_time(evaluate, monkeypatch):
    """The pixels of those that are done are not kept."""
    import deepviz.cli.evaluate as command

    counts = []

    class Watched(command.Photographs):
        def prepared(self, *arguments):
            for image in super().prepared(*arguments):
                counts.append(len(self.opened))
                yield image

    monkeypatch.setattr(command, "Photographs", Watched)
    assert evaluate("photos", *QUICK)[0] == 0
    assert counts == [1, 1, 1]


@pytest.mark.parametrize("targets", [[], ["1", "lynx"]], ids=str)
def test_an_interrupted_run_keeps_what_is_done(evaluate, monkeypatch, targets):
    import deepviz.cli.evaluate as command

    evaluate_items = command.evaluate_items

    def interrupted(*arguments, **options):
        for count, one in enumerate(evaluate_items(*arguments, **options)):
            if count == 2 * len(targets or [None]):
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(command, "evaluate_items", interrupted)
    code, out, err = evaluate("photos", *QUICK, "--json", *(word for one in targets for word in ("--target", one)))
    assert code == 130
    assert json.loads(out)["interrupted"] is True
    assert len(json.loads(out)["images"]) == 2 * len(targets or [None])
    assert Path("deepviz-out/evaluation.csv").exists()
    assert "interrupted after 2 of 3 images" in err
    kept = json.loads(Path("deepviz-out/evaluation.json").read_text())
    assert len(kept["images"]) == 2 * len(targets or [None])


def test_boxes_of_a_file(evaluate):
    """Several lines of one photograph are several objects; a photograph without a line has failed."""
    lines = ["file,left,top,right,bottom", "0.png,10,5,30,25", "0.png,30,25,40,35", "photos/1.png,0,0,60,40"]
    Path("boxes.csv").write_text("\n".join(lines))
    code, out, err = evaluate(
        "photos", *QUICK[:4], "--metric", "energy-inside", "--boxes", "boxes.csv", "--json", "--no-controls"
    )
    assert code == 4
    values = [one["values"][0][0] for one in json.loads(out)["images"]]
    assert len(values) == 2
    assert values[1] == 1, "the box is the whole photograph"
    assert 0 < values[0] < 1
    assert "2.png: it has no line in the --boxes file" in err


@pytest.mark.parametrize("line", ["0.png,1,2,3", "0.png,1,2,3,four", "0.png"])
def test_lines_that_are_no_boxes(tmp_path, line):
    path = tmp_path / "boxes.csv"
    path.write_text(f"0.png,1,2,3,4\n{line}\n")
    with pytest.raises(TargetError, match="line 2: expected file,left,top,right,bottom"):
        read_boxes(path)


def test_names_of_classes_are_labels_and_a_csv_of_classes_is_truth(evaluate):
    Path("names.txt").write_text("a\nb\nc\nd\ne\n")
    Path("truth.csv").write_text("file,class\n0.png,c\n1.png,1\n2.png,a\n")
    code, out, err = evaluate("photos", *QUICK, "--labels", "names.txt", "--truth", "truth.csv", "--json")
    assert (code, err) == (0, "")
    assert [one["target"].split()[0] for one in json.loads(out)["images"]] == ["c", "b", "a"]
    Path("truth.csv").write_text("file,class\n0.png,2\n1.png,1\n2.png,0\n")
    code, out, err = evaluate("photos", *QUICK, "--labels", "truth.csv", "--json", "-o", "other")
    assert code == 0
    assert err == ("deepviz: --labels takes names of classes; a .csv of files and classes is --truth truth.csv\n")
    assert [one["target"].split()[0] for one in json.loads(out)["images"]] == ["lynx", "red", "tabby,"]


def test_folders_that_are_named_after_classes_are_the_truth(evaluate):
    for number, name in enumerate(("lynx", "Red_fox", "other")):
        Path("photos", name).mkdir()
        Path(f"photos/{number}.png").rename(f"photos/{name}/{number}.png")
    code, out, err = evaluate("photos", *QUICK, "--truth", "folders", "--json")
    assert code == 4
    assert "other/2.png: its folder is not named after a class: no class named 'other'" in err
    assert [one["target"].rsplit(" ", 2)[0] for one in json.loads(out)["images"]] == ["red fox", "lynx"]


def test_files_of_the_same_name_are_told_apart_by_their_folders():
    truth = GroundTruth({"a/1.png": 3, "b/1.png": 4})
    assert truth.targets(Path("photos/a/1.png"), Path("a"), None) == (Logit(3),)
    assert truth.targets(Path("photos/b/1.png"), Path("b"), None) == (Logit(4),)
    with pytest.raises(TargetError, match=r"c/1\.png: the file of true classes has a/1\.png and b/1\.png"):
        truth.targets(Path("photos/c/1.png"), Path("c"), None)


def test_lines_of_classes(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text('file,class_index\na.jpg,7\n"b, c.jpg","tabby, tabby cat"\n\n')
    assert read_classes(path) == {"a.jpg": 7, "b, c.jpg": "tabby, tabby cat"}
    path.write_bytes(b"\xef\xbb\xbfa.jpg,7\n")
    assert read_classes(path) == {"a.jpg": 7}, "a mark of byte order, as spreadsheets write it"
    path.write_text("there/a.jpg,7\na.jpg,7\na.jpg,8\n")
    with pytest.raises(TargetError, match=r"line 3: a\.jpg has the class 7 already"):
        read_classes(path)
    path.write_text("a.jpg,\u00b2\n")
    assert read_classes(path) == {"a.jpg": "\u00b2"}
    path.write_text("a.jpg\n")
    with pytest.raises(TargetError, match="line 1: expected file,class"):
        read_classes(path)


def test_results_of_another_question_are_kept_apart_and_told(evaluate):
    def run_with(*arguments):
        code, out, err = evaluate("photos", *QUICK, *arguments)
        assert code == 0
        return out.splitlines()[-1], err

    assert run_with() == run_with()
    assert run_with()[1] == ""
    first = Path("deepviz-out/evaluation.json").read_bytes()
    files, err = run_with("--target", "lynx")
    assert err == "deepviz: deepviz-out has results of another question; these are in deepviz-out/evaluation-2\n"
    assert "deepviz-out/evaluation-2/evaluation.json" in files
    assert Path("deepviz-out/evaluation.json").read_bytes() == first
    assert run_with("--target", "lynx") == (files, err)


@pytest.mark.parametrize("format", ["csv", "markdown", "latex"])
def test_the_table_as_text_for_elsewhere_is_alone_on_stdout(evaluate, format):
    code, out, err = evaluate("photos", *QUICK, "--format", format)
    assert code == 0
    found = {
        "csv": lambda: next(csv.DictReader(out.splitlines()))["method"],
        "markdown": lambda: out.splitlines()[2].split(" | ")[0].strip("| "),
        "latex": lambda: out.splitlines()[6].split(" & ")[0],
    }[format]()
    assert found == "Gradient"
    assert err.startswith("deepviz: deepviz-out/evaluation.json, ")
    assert "curves.png" not in out


def test_the_values_and_the_curves_are_written(evaluate):
    assert evaluate("photos", *QUICK, "--metric", "sparseness")[0] == 0
    values = list(csv.DictReader(Path("deepviz-out/evaluation_values.csv").read_text().splitlines()))
    curves = list(csv.DictReader(Path("deepviz-out/evaluation_curves.csv").read_text().splitlines()))
    assert len(values) == 3 * 4 * 2
    assert len(curves) == 3 * 4 * 5
    kept = json.loads(Path("deepviz-out/evaluation.json").read_text())["images"]
    assert [float(line["value"]) for line in values[:2]] == kept[0]["values"][0]
    scores = [float(line["score"]) for line in curves[:5]]
    assert np.trapezoid(scores, dx=0.25) == pytest.approx(kept[0]["values"][0][0])


def test_what_was_skipped_is_counted(evaluate):
    Path("photos/notes.txt").write_text("none")
    Path("photos/more.TXT").write_text("none")
    assert json.loads(evaluate("photos", *QUICK, "--json")[1])["skipped"] == {".txt": 2}


def judged_by(monkeypatch):
    """The names of the images that a command judges."""
    import deepviz.cli.evaluate as command

    evaluate_items, names = command.evaluate_items, []

    def watched(loaded, items, *arguments, **options):
        def seen():
            for item in items:
                names.append(item.image.name)
                yield item

        return evaluate_items(loaded, seen(), *arguments, **options)

    monkeypatch.setattr(command, "evaluate_items", watched)
    return names


def without_time(found):
    return {name: value for name, value in json.loads(found).items() if name != "versions"}


@pytest.mark.parametrize("targets", [[], ["1", "lynx"]], ids=str)
def test_an_interrupted_run_is_gone_on_with(evaluate, monkeypatch, targets):
    """The result is that of a run that was not interrupted, and no image is judged twice."""
    words = [*QUICK, "--metric", "sparseness", "--json", *(word for one in targets for word in ("--target", one))]
    whole = evaluate("photos", *words, "-o", "whole")[1]
    Path("photos/1.png").rename("1.png")
    assert evaluate("photos", *words)[0] == 0
    Path("1.png").rename("photos/1.png")
    names = judged_by(monkeypatch)
    code, out, err = evaluate("photos", *words, "--resume")
    assert (code, names) == (0, ["1.png"])
    assert err == "deepviz: 2 of 3 images are done already\n"
    assert without_time(out) == without_time(whole)
    for file in ("evaluation_values.csv", "evaluation_curves.csv"):
        assert Path("deepviz-out", file).read_text() == Path("whole", file).read_text()
    names.clear()
    assert evaluate("photos", *words, "--resume")[1] == out
    assert names == []
    evaluate("photos", *words)
    assert names == ["0.png", "1.png", "2.png"], "without --resume all are judged"


def test_another_image_or_question_is_not_taken_for_what_is_done(evaluate, monkeypatch):
    Path("truth.csv").write_text("0.png,2\n1.png,1\n")
    words = [*QUICK, "--truth", "truth.csv", "--resume"]
    names = judged_by(monkeypatch)
    assert evaluate("photos", *words)[0] == 4
    Path("photos/0.png").write_bytes(Path("photos/2.png").read_bytes())
    with Path("truth.csv").open("a") as file:
        file.write("2.png,0\n")
    names.clear()
    code, _, err = evaluate("photos", *words)
    assert (code, names) == (0, ["0.png", "2.png"]), "another content, and a line that was not there"
    assert err == "deepviz: 1 of 3 images are done already\n"
    names.clear()
    code, _, err = evaluate("photos", *words, "--metric", "sparseness")
    assert names == ["0.png", "1.png", "2.png"]
    assert "deepviz-out has results of another question; these are in deepviz-out/evaluation-2" in err
    Path("truth.csv").write_text("0.png,1\n1.png,1\n2.png,0\n")
    names.clear()
    assert "these are in deepviz-out/evaluation-3" in evaluate("photos", *words)[2], "a changed line"
    assert names == ["0.png", "1.png", "2.png"]


def test_half_a_line_of_a_killed_run_costs_one_image(evaluate, monkeypatch):
    evaluate("photos", *QUICK)
    record = Path("deepviz-out/evaluation.images.jsonl")
    record.write_bytes(record.read_bytes()[:-50])
    names = judged_by(monkeypatch)
    assert evaluate("photos", *QUICK, "--resume")[0] == 0
    assert names == ["2.png"]
    names.clear()
    assert evaluate("photos", *QUICK, "--resume")[0] == 0
    assert names == []


def two_folders():
    for folder in ("a", "b"):
        Path("photos", folder).mkdir()
    for number, folder in enumerate(("a", "b")):
        Path(f"photos/{number}.png").rename(f"photos/{folder}/same.png")
    Path("photos/2.png").unlink()


def test_boxes_of_two_images_of_one_name(evaluate):
    two_folders()
    words = ["photos", *QUICK[:4], "--metric", "energy-inside", "--boxes", "boxes.csv", "--json", "--no-controls"]
    Path("boxes.csv").write_text("a/same.png,0,0,60,40\nb/same.png,10,5,30,25\n")
    code, out, _ = evaluate(*words)
    assert code == 0
    images = json.loads(out)["images"]
    assert [one["source"] for one in images] == ["a/same.png", "b/same.png"]
    assert images[0]["values"][0][0] == 1, "the box is the whole image"
    assert images[1]["values"][0][0] < 1
    Path("boxes.csv").write_text("same.png,0,0,60,40\n")
    code, out, err = evaluate(*words)
    assert (code, out) == (3, "")
    assert err.count("\n") == 1
    assert "may be photos/a/same.png or photos/b/same.png: write their paths" in err


def test_a_class_for_two_images_of_one_name_is_refused(evaluate):
    two_folders()
    Path("truth.csv").write_text("same.png,2\n")
    code, _, err = evaluate("photos", *QUICK, "--truth", "truth.csv")
    assert code == 3
    assert "the file of true classes has a line 'same.png', which may be" in err
    Path("truth.csv").write_text("a/same.png,2\nb/same.png,1\n")
    code, out, _ = evaluate("photos", *QUICK, "--truth", "truth.csv", "--json")
    assert [one["target"].split()[0] for one in json.loads(out)["images"]] == ["lynx", "red"]


def test_the_cost_is_told_before_and_the_time_after_the_first_image(evaluate, monkeypatch):
    """Of 4 rows: gradient 2 passes, controls 1 each, and 99 of each row for the curve."""
    words = [*QUICK[:4], "--metric", "deletion(steps=100)"]
    code, _, err = evaluate("photos", *words)
    assert code == 0
    first, second = err.splitlines()
    assert first == "deepviz: about 400 forward and backward passes for one image, 1,200 for 3"
    assert second.startswith("deepviz: the first image took ")
    assert second.endswith(" left")


@pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
def test_a_budget_is_that_of_every_method_which_takes_one(evaluate):
    """As with the option written out for each."""
    common = [
        "photos/0.png",
        "--model",
        "small_models:good",
        "--metric",
        "deletion(steps=4)",
        "--json",
        "--no-controls",
    ]
    methods = ["-m", "rise(cells=3)", "-m", "lime(cells=3)"]
    code, out, _ = evaluate(*common, *methods, "--budget", 70)
    assert code == 0
    written_out = ["-m", "rise(cells=3, max_passes=70)", "-m", "lime(cells=3, max_passes=70)"]
    assert json.loads(out)["images"] == json.loads(evaluate(*common, *written_out)[1])["images"]
    code, _, err = evaluate(*common, *methods, "--budget", 1)
    assert (code, "--budget 1" in err) == (2, True)


@pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
def test_of_a_plain_function_all_methods_are_those_of_forward_passes_alone(evaluate):
    """As with `deepviz.evaluate`: the others would all be left out."""
    arguments = ["photos/0.png", "--model", "small_models:plain_function", "--metric", "deletion(steps=4)"]
    code, out, _ = evaluate(*arguments, "--budget", 150, "--json", "--no-controls")
    assert code == 0
    assert [one.split(",")[0] for one in json.loads(out)["rows"]] == [
        cls().name for cls in map(deepviz.catalog.find, deepviz.catalog.default_set(black_box=True))
    ]


def test_metrics_are_added_to_a_run(tmp_path, capsys):
    pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")
    images, model = folder_of_images(tmp_path / "images"), ("--model", "tiny_run:loaded")
    for name, metrics in (("added", []), ("at once", ["sparseness", "deletion(steps=4)"])):
        deepviz.run(loaded(), images, ["gradient", "grad-cam"], metrics=metrics, out=tmp_path / name, shard_size=4)
    added, at_once = str(tmp_path / "added"), deepviz.Run(tmp_path / "at once")
    asked = ["evaluate", added, *model, "--metric", "sparseness", "--metric", "deletion(steps=4)"]
    assert run([*asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == [one | {"maps": 6} for one in at_once.scores()]
    for metric in at_once.metrics:
        assert deepviz.Run(added).rows[metric].equals(at_once.rows[metric])
    assert run(asked) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == [
        "method",
        "metric",
        "mean",
        "95",
        "%",
        "interval",
        "maps",
    ]
    assert run([*asked, "-m", "gradient"]) == 2
    assert "-m is for images: a run has its own, and deepviz run adds methods to it" in capsys.readouterr().err
    assert run([*asked[:2], "--model", "small_models:good"]) == 3
    assert "holds the results of another question: it differs in" in capsys.readouterr().err


def test_a_run_that_is_not_complete_is_told_to_go_on(tmp_path, capsys):
    pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")
    images, out = folder_of_images(tmp_path / "images"), tmp_path / "run"
    deepviz.run(loaded(), images, "gradient", out=out, shard_size=3)
    (out / "rows" / "00000001.parquet").unlink()
    assert run(["evaluate", str(out), "--model", "tiny_run:loaded", "--metric", "sparseness"]) == 3
    assert "is not complete: the command that it was begun with goes on" in capsys.readouterr().err
