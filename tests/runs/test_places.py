import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import deepviz
from deepviz.errors import OutputError, TargetError
from tiny_run import folder_of_images, loaded

pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")

NAMES = [
    f"{name}/{number}.png" for number, name in ((0, "ant"), (3, "ant"), (1, "bee"), (4, "bee"), (2, "cow"), (5, "cow"))
]
BOX = {name: [(number, 1, number + 5, 9)] for number, name in enumerate(NAMES)}
METRICS = ["energy-inside", "pointing-game"]


@pytest.fixture
def images(tmp_path):
    return folder_of_images(tmp_path / "images")


def csv_of(path, boxes):
    lines = [f"{name},{','.join(map(str, box))}" for name, of in boxes.items() for box in of]
    path.write_text("\n".join(["file,left,top,right,bottom", *lines]))
    return path


def column(run, name):
    return run.rows[name].to_pylist()


def test_metrics_of_localisation_are_those_of_evaluate(images, tmp_path):
    run = deepviz.run(loaded(), images, "gradient", metrics=METRICS, boxes=BOX, out=tmp_path / "run")
    judged = deepviz.evaluate(loaded(), images, "gradient", METRICS, boxes=list(BOX.values()), controls=False)
    assert run.rows["image"].to_pylist() == NAMES
    for place, name in enumerate(METRICS):
        # a run judges what it stores, 11 bits of each value
        assert column(run, name) == pytest.approx(judged.values[:, 0, place].tolist(), abs=1e-3)
    assert len(run.where("energy_inside < 0.3")) == sum(value < 0.3 for value in column(run, "energy-inside"))


def test_a_file_a_mapping_a_list_and_masks_of_the_boxes_say_the_same(images, tmp_path):
    masks = tmp_path / "masks"
    for name, boxes in BOX.items():
        mask = Image.new("L", (14, 14))
        left, top, right, bottom = boxes[0]
        ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), fill=1)
        (masks / name).parent.mkdir(parents=True, exist_ok=True)
        mask.save((masks / name).with_suffix(".png"))
    asked = {
        "mapping": {"boxes": BOX},
        "positions": {"boxes": dict(enumerate(BOX.values()))},
        "list": {"boxes": list(BOX.values())},
        "file": {"boxes": csv_of(tmp_path / "boxes.csv", BOX)},
        "masks": {"masks": masks},
    }
    model = deepviz.LoadedModel(loaded().module, "tiny", deepviz.Preprocess(14, crop=1.0), labels=loaded().labels)
    found = [
        column(deepviz.run(model, images, "gradient", metrics=METRICS, out=tmp_path / name, **given), "energy-inside")
        for name, given in asked.items()
    ]
    assert None not in found[0]
    assert found == [found[0]] * 5


def test_an_image_without_a_box_has_no_value_and_a_warning_that_says_why(images, tmp_path):
    some = {name: boxes for name, boxes in BOX.items() if name != NAMES[2]}
    run = deepviz.run(loaded(), images, "gradient", metrics=[*METRICS, "sparseness"], boxes=some, out=tmp_path / "run")
    rows = run.rows.to_pylist()
    assert [row["energy-inside"] is None for row in rows] == [name == NAMES[2] for name in NAMES]
    assert rows[2]["warnings"] == ["energy-inside: 1.png has no box", "pointing-game: 1.png has no box"]
    assert rows[2]["sparseness"] is not None


def test_a_metric_with_boxes_is_added_to_a_finished_run_and_other_boxes_are_another_question(images, tmp_path):
    out = tmp_path / "run"
    deepviz.run(loaded(), images, "gradient", out=out)
    added = deepviz.run(loaded(), images, "gradient", metrics="energy-inside", boxes=BOX, out=out)
    at_once = deepviz.run(loaded(), images, "gradient", metrics="energy-inside", boxes=BOX, out=tmp_path / "at once")
    assert column(added, "energy-inside") == column(at_once, "energy-inside")
    other = BOX | {NAMES[0]: [(2, 2, 4, 4)]}
    for given in (other, None):
        with pytest.raises(OutputError, match=r"it differs in where the objects are \(boxes or masks\)"):
            deepviz.run(loaded(), images, ["gradient", "grad-cam"], out=out, boxes=given)
    again = deepviz.run(loaded(), images, ["gradient", "grad-cam"], out=out, boxes=BOX)
    assert None not in column(again, "energy-inside")  # of the new maps too


def test_worker_processes_know_where_the_objects_are(images, tmp_path):
    given = {"metrics": METRICS, "boxes": BOX, "shard_size": 3}
    one = deepviz.run(loaded(), images, "gradient", out=tmp_path / "one", **given)
    two = deepviz.run(loaded(), images, "gradient", out=tmp_path / "two", workers=2, **given)
    assert column(one, "energy-inside") == pytest.approx(column(two, "energy-inside"), rel=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"Energy inside needs to know where the object is: give boxes \(--boxes\) or masks \(--masks\)"),
        ({"boxes": [[(0, 0, 4, 4)]]}, "1 lists of boxes for 6 images: give one for each"),
        ({"boxes": {"moth.png": [(0, 0, 4, 4)]}}, "the --boxes file has no line of any image, such as ant/0.png"),
        ({"boxes": {0: [(0, 0, 4)]}}, r"the boxes of an image are a list of \(left, top, right, bottom\)"),
        ({"boxes": {0: (0, 0, 4, 4)}}, r"the boxes of an image are a list of \(left, top, right, bottom\)"),
        ({"boxes": BOX, "masks": "masks"}, "give boxes or masks, not both"),
        ({"masks": "nowhere"}, "nowhere is no folder of masks"),
        ({"masks": "."}, "has no mask of any image, such as one named 0.png"),
    ],
)
def test_what_does_not_say_where_the_objects_are(given, message, images, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises((TargetError, ValueError), match=message):
        deepviz.run(loaded(), images, "gradient", metrics="energy-inside", out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_a_mask_of_another_size_is_a_warning_that_names_both(images, tmp_path):
    masks = tmp_path / "masks"
    (masks / "ant").mkdir(parents=True)
    Image.fromarray(np.full((9, 8), 255, np.uint8)).save(masks / "ant" / "0.png")
    run = deepviz.run(loaded(), images, "gradient", metrics="energy-inside", masks=masks, out=tmp_path / "run")
    assert run.rows["warnings"][0].as_py() == [
        f"energy-inside: {masks / 'ant' / '0.png'} is 8 x 9, and the image 14 x 14"
    ]


def test_a_mask_lies_at_the_part_of_the_image_that_the_model_sees(tmp_path):
    Image.fromarray(np.full((40, 80, 3), 99, np.uint8)).save(tmp_path / "wide.png")
    (tmp_path / "masks").mkdir()
    mask = np.zeros((40, 80), np.uint8)
    mask[:, 40:] = 1  # the right half, of which the middle square has its right half
    Image.fromarray(mask).save(tmp_path / "masks" / "wide.png")

    class Sum(torch.nn.Module):
        def forward(self, x):
            return x.sum((1, 2, 3))[:, None] * torch.tensor([1.0, -1.0])

    model = deepviz.LoadedModel(Sum(), "sum", deepviz.Preprocess(20, crop=1.0))
    run = deepviz.run(
        model, tmp_path / "wide.png", "gradient", metrics="energy-inside", masks=tmp_path / "masks", target=0,
        out=tmp_path / "run",
    )  # fmt: skip
    assert column(run, "energy-inside") == [0.5]  # the gradient is 1 everywhere


def test_a_mask_that_may_be_that_of_two_images_is_refused(tmp_path):
    for name in ("images/ant/0.png", "images/bee/0.png", "masks/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (14, 14), 1).save(tmp_path / name)
    with pytest.raises(TargetError, match=r"0\.png may be the mask of ant/0\.png or bee/0\.png: use sub-folders"):
        deepviz.run(
            loaded(), tmp_path / "images", "gradient", metrics="energy-inside", masks=tmp_path / "masks",
            out=tmp_path / "run",
        )  # fmt: skip
