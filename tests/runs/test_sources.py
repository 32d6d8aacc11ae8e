import csv
import io
import json
import tarfile

import pytest
import torch
from PIL import Image

import deepviz
from deepviz.errors import ImageError
from deepviz.runs.sources import Label, named_label, source_of
from tiny_run import folder_of_images, loaded, network, pixels

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")
parquet = pytest.importorskip("pyarrow.parquet")


def read(source, model=None):
    """The names, labels and pixels of all images."""
    model = model or loaded()
    found = []
    for index, name in enumerate(source.names):
        item, label = source.read(model, index)
        found.append((name, label, item.image.x))
    return found


def same(one, other):
    assert [(label, name.rpartition("/")[2]) for name, label, _ in one] == [
        (label, name.rpartition("/")[2]) for name, label, _ in other
    ]
    assert all(torch.equal(x, y) for (_, _, x), (_, _, y) in zip(one, other, strict=True))


@pytest.fixture
def images(tmp_path):
    return folder_of_images(tmp_path / "images")


def test_the_sub_folders_are_the_labels(images):
    source = source_of(images)
    found = read(source)
    assert [name for name, _, _ in found] == [
        "ant/0.png",
        "ant/3.png",
        "bee/1.png",
        "bee/4.png",
        "cow/2.png",
        "cow/5.png",
    ]
    assert [label for _, label, _ in found] == [
        Label(name, index) for name, index in (("ant", 0), ("ant", 0), ("bee", 1), ("bee", 1), ("cow", 2), ("cow", 2))
    ]
    direct = loaded().prepare(images / "bee" / "4.png")
    assert torch.equal(found[3][2], direct.x)


def test_a_sub_folder_that_is_no_class_is_kept_as_it_is_written(images, tmp_path):
    (images / "cow").rename(images / "yak")
    out = tmp_path / "out"
    pytest.importorskip("zarr")
    run = deepviz.run(loaded(), images, "gradient", out=out)
    yaks = run.where("label == 'yak'")
    assert len(yaks) == 2
    assert yaks.rows["correct"].to_pylist() == [None, None]
    assert run.where("label != 'yak'").rows["correct"].null_count == 0


@pytest.mark.parametrize("kind", ["csv", "csv without a heading", "parquet"])
def test_a_table_of_paths_and_labels(kind, images):
    rows = [(f"{label}/{number}.png", label) for label, number in (("ant", 0), ("bee", 1), ("cow", 2))]
    whole = {name: (name, label, x) for name, label, x in read(source_of(images))}
    path = images / ("table.parquet" if kind == "parquet" else "table.csv")
    if kind == "parquet":
        parquet.write_table(
            pyarrow.table({"label": [label for _, label in rows], "path": [name for name, _ in rows]}), path
        )
    else:
        heading = "" if "without" in kind else "file,split,label\n"
        middle = "" if "without" in kind else "test,"
        path.write_text(heading + "".join(f"{name},{middle}{label}\n" for name, label in rows))
    same(read(source_of(path)), [whole[name] for name, _ in rows])


def test_a_class_index_in_a_table(images):
    path = images / "table.csv"
    path.write_text("file,class\nant/0.png,2\nbee/1.png,\n")
    assert [label for _, label, _ in read(source_of(str(path)))] == [Label("cow", 2), None]


def test_labels_of_a_table_with_gaps_and_numbers_that_are_no_classes(images):
    names = ["ant/0.png", "ant/3.png", "bee/1.png", "bee/4.png"]
    columns = {"file": names, "label": pyarrow.array([1.0, None, float("nan"), 1.5])}
    parquet.write_table(pyarrow.table(columns), images / "table.parquet")
    assert [label for _, label, _ in read(source_of(images / "table.parquet"))] == [
        Label("bee", 1),
        None,
        None,
        Label("1.5", None),
    ]
    (images / "table.csv").write_text("file,label\nant/0.png,-1\n")
    assert [label for _, label, _ in read(source_of(images / "table.csv"))] == [Label("-1", None)]
    assert named_label((-1,), None) == Label("class -1", None)


def test_a_name_with_a_line_break_in_a_table(images):
    name = "ant/a\u2028b\nc.png"
    (images / "ant" / "0.png").rename(images / name)
    with open(images / "table.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "label"), (name, "ant")])
    assert [(found, label) for found, label, _ in read(source_of(images / "table.csv"))] == [(name, Label("ant", 0))]


def test_a_column_of_images_is_no_column_of_paths(tmp_path):
    parquet.write_table(pyarrow.table({"image": [{"bytes": b"1", "path": "a"}]}), tmp_path / "table.parquet")
    with pytest.raises(ImageError, match=r"table\.parquet: the column image does not hold paths, but struct<"):
        source_of(tmp_path / "table.parquet")


def test_two_classes_of_one_name_are_told_apart(tmp_path):
    pytest.importorskip("zarr")
    model = deepviz.LoadedModel(network(), "tiny", labels=("ant", "crane", "crane"))
    one, other = (
        deepviz.run(model, [(x, label) for x, _ in pixels(6)], "gradient", out=tmp_path / str(label)).rows.to_pylist()
        for label in (1, 2)
    )
    for a, b in zip(one, other, strict=True):
        assert (a["correct"], b["correct"]) == (a["target_index"] == 1, b["target_index"] == 2)


def test_labels_that_differ_in_case_alone_are_two_classes():
    classes = ("cat", "Cat")
    assert named_label(("Cat",), classes) == Label("Cat", 1)
    assert named_label(("cat",), classes) == Label("cat", 0)
    assert named_label(("CAT",), classes) == Label("CAT", None)


def test_a_table_without_paths_names_its_columns(tmp_path):
    parquet.write_table(pyarrow.table({"url": ["a"], "label": ["b"]}), tmp_path / "table.parquet")
    with pytest.raises(ImageError, match=r"no column of paths: it has url, label; call it file"):
        source_of(tmp_path / "table.parquet")


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_the_samples_of_a_tar(kind, images, tmp_path):
    path = tmp_path / "train-000.tar"
    whole = read(source_of(images))
    with tarfile.open(path, "w") as tar:
        for number, (name, label, _) in enumerate(whole):
            said = label.text if kind == "cls" else json.dumps({"label": label.text, "other": 1})
            for suffix, content in (("png", (images / name).read_bytes()), (kind, said.encode())):
                member = tarfile.TarInfo(f"part/{number:03d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    found = read(source_of(path))
    assert [name for name, _, _ in found] == [f"{path}/part/{number:03d}.png" for number in range(6)]
    assert [(label, x.tolist()) for _, label, x in found] == [(label, x.tolist()) for _, label, x in whole]
    pytest.importorskip("zarr")
    run = deepviz.run(loaded(), [str(path)], "gradient", out=tmp_path / "out")
    with Image.open(images / whole[2][0]) as picture:
        assert run.explanation(2).image.tobytes() == picture.convert("RGB").tobytes()


def test_of_a_sample_with_a_mask_the_image_is_explained(images, tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, file in (("1.depth.png", "bee/1.png"), ("1.png", "ant/0.png"), ("1.seg.png", "cow/2.png")):
            tar.add(images / file, name)
    ((_, _, x),) = read(source_of(path))
    assert torch.equal(x, loaded().prepare(images / "ant" / "0.png").x)


def test_a_compressed_tar_is_told(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    with pytest.raises(ImageError, match="cannot be read as an uncompressed tar"):
        source_of(tmp_path / "a.tar")


class Named(torch.utils.data.Dataset):
    """Numbers its classes in another order than the model."""

    classes = ("cow", "ant")

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.full((3, 12, 12), float(index)), torch.tensor(index)


def test_the_classes_of_a_data_set_are_matched_by_name(tmp_path):
    assert [label for _, label, _ in read(source_of(Named()))] == [Label("cow", 2), Label("ant", 0)]
    plain = deepviz.LoadedModel(torch.nn.Flatten(), "plain")
    assert [label for _, label, _ in read(source_of(Named()), plain)] == [
        Label("class 0", 0),
        Label("class 1", 1),
    ]


def test_a_list_of_files_is_in_its_order(images):
    paths = [str(images / "cow" / "2.png"), str(images / "ant" / "0.png")]
    assert [name for name, _, _ in read(source_of(paths))] == paths
    with pytest.raises(ImageError, match=r"2\.png is there twice"):
        source_of([paths[0], paths[0]])


def test_what_is_no_source_is_told():
    with pytest.raises(TypeError, match="not a generator"):
        source_of(x for x in range(3))
    with pytest.raises(TypeError, match="not a int"):
        source_of(3)
    with pytest.raises(ImageError, match="there are no images"):
        source_of([])


def test_the_record_tells_other_names_labels_and_sizes(images):
    record = source_of(images).record
    assert source_of(images).record == record
    (images / "ant" / "0.png").write_bytes(b"other")
    changed = source_of(images).record
    assert (changed["names"], changed["sizes"] == record["sizes"]) == (record["names"], False)
    (images / "ant").rename(images / "bat")
    assert source_of(images).record["names"] != record["names"]
