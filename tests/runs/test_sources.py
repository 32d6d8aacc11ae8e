import csv
import io
import json
import shutil
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from threading import Thread
from typing import ClassVar

import pytest
import torch
from PIL import Image

import deepviz
from deepviz.errors import ImageError, MissingExtra
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


def test_a_column_of_pixels_is_no_column_of_paths(tmp_path):
    parquet.write_table(pyarrow.table({"image": [{"array": [1.0, 2.0]}]}), tmp_path / "table.parquet")
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
    parquet.write_table(pyarrow.table({"uri": ["a"], "label": ["b"]}), tmp_path / "table.parquet")
    with pytest.raises(ImageError, match=r"no column of paths: it has uri, label; call it file"):
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


class Folder(Named):
    """Says the names and labels of its images, as torchvision's `ImageFolder` does."""

    samples: ClassVar = [("a/0.png", 0), ("a/1.png", 1)]


@pytest.mark.parametrize(
    ("whole", "swapped", "twice"),
    [(Named(), ["0", "1"], ["0", "1", "2"]), (Folder(), ["a/1.png", "a/0.png"], ["0", "1", "2"])],
)
def test_parts_of_data_sets_have_their_names_and_classes(whole, swapped, twice):
    cow, ant = Label("cow", 2), Label("ant", 0)
    part = torch.utils.data.Subset(whole, [1, 0])
    assert [(name, label) for name, label, _ in read(source_of(part))] == [(swapped[0], ant), (swapped[1], cow)]
    last = read(source_of(torch.utils.data.Subset(part, [1])))
    assert [label for _, label, _ in last] == [cow]
    both = source_of(torch.utils.data.ConcatDataset([whole, torch.utils.data.Subset(whole, [1])]))
    assert [(name, label) for name, label, _ in read(both)] == list(zip(twice, [cow, ant, ant], strict=True))


def test_data_sets_that_name_their_classes_differently_are_not_joined():
    other = Named()
    other.classes = ("ant", "cow")
    with pytest.raises(ImageError, match="that are joined name their classes differently: give a run for each"):
        source_of(torch.utils.data.ConcatDataset([Named(), other]))


IMAGE = torch.full((3, 12, 12), 0.5)


@pytest.mark.parametrize(
    ("item", "label"),
    [
        ({"image": IMAGE, "label": 1}, Label("bee", 1)),
        ({"pixel_values": IMAGE, "labels": torch.tensor([2]), "mask": IMAGE}, Label("cow", 2)),
        ((IMAGE, "cow", {"file": "a"}), Label("cow", 2)),
        ((IMAGE, {"boxes": torch.zeros(1, 4)}), None),
        ((IMAGE, [{"bbox": [1, 2, 3, 4]}]), None),
        ((IMAGE, torch.tensor([0, 1, 1])), None),
        ((IMAGE, torch.tensor([0.0, 1.0, 0.0])), None),
        ((IMAGE, 0.5), None),
        ((IMAGE, None), None),
        ((IMAGE, Image.new("L", (12, 12))), None),
    ],
)
def test_what_goes_along_with_an_image_is_its_label_if_it_is_one_class(item, label):
    ((_, found, x),) = read(source_of([item]))
    assert (found, x.tolist()) == (label, IMAGE.tolist())


def test_several_labels_of_an_image_are_kept_as_text(images):
    columns = {"file": ["ant/0.png"], "label": [[2, 0]]}
    parquet.write_table(pyarrow.table(columns), images / "table.parquet")
    assert [label for _, label, _ in read(source_of(images / "table.parquet"))] == [Label("2, 0", None)]


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


def png(pixels):
    content = io.BytesIO()
    Image.fromarray((pixels * 255).to(torch.uint8).movedim(0, -1).numpy()).save(content, "PNG")
    return content.getvalue()


CLASSES = ["cow", "ant"]
FEATURES = {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}


def held_by(path, images, labels, features=FEATURES):
    """A file as `datasets` writes it."""
    table = pyarrow.table(
        {"image": [{"bytes": one, "path": None} for one in images], "label": labels},
        pyarrow.schema(
            {"image": pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}), "label": pyarrow.int64()}
        ),
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=2)
    else:
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, 2)


def expected_of(images, labels, model):
    """The pixels and labels, read one by one; the classes are numbered as the data set does."""
    named = [None if one is None else Label(CLASSES[one], model.labels.index(CLASSES[one])) for one in labels]
    photos = [Image.open(io.BytesIO(one)) for one in images]
    return [(label, model.prepare(photo).x.tolist()) for label, photo in zip(named, photos, strict=True)]


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_the_rows_of_a_data_set_are_images_and_labels_by_the_names_of_its_classes(suffix, tmp_path):
    images, labels = [png(x) for x, _ in pixels(7)], [0, 1, 0, -1, 1, None, 0]
    names = [f"data-{number:05d}-of-00002.{suffix}" for number in range(2)]
    held_by(tmp_path / names[1], images[5:], labels[5:])
    held_by(tmp_path / names[0], images[:5], labels[:5])
    (tmp_path / "dataset_info.json").write_text("{}")
    model = loaded()
    found = read(source_of(tmp_path), model)
    assert [name for name, _, _ in found] == [f"{names[0]}/{n}" for n in range(5)] + [f"{names[1]}/{n}" for n in (0, 1)]
    plain = [None if label == -1 else label for label in labels]
    assert [(label, x.tolist()) for _, label, x in found] == expected_of(images, plain, model)
    backwards = [source_of(tmp_path).read(model, index)[0].image.x for index in range(6, -1, -1)]
    assert all(torch.equal(x, y) for x, (_, _, y) in zip(backwards, reversed(found), strict=True))
    if suffix == "parquet":
        (tmp_path / "dataset_info.json").unlink()  # as on the Hub
        same(read(source_of(tmp_path)), found)
        same(read(source_of([tmp_path / name for name in names])), found)
        same(read(source_of(tmp_path / names[0])), found[:5])


def test_a_run_of_a_data_set_shows_its_images(tmp_path):
    pytest.importorskip("zarr")
    held_by(tmp_path / "a.parquet", [png(x) for x, _ in pixels(3)] + [b"no image"], [0, 1, 0, 1])
    run = deepviz.run(loaded(), tmp_path / "a.parquet", "gradient", out=tmp_path / "out")
    assert run.where("failure").rows["reason"].to_pylist() == [
        "a.parquet/3 is not an image in a format that Pillow can read"
    ]
    for index, (x, _) in enumerate(pixels(3)):
        with Image.open(io.BytesIO(png(x))) as picture:
            assert run.explanation(index).image.tobytes() == picture.tobytes()


def test_what_is_wrong_with_a_data_set_is_one_line(tmp_path):
    images = [png(x) for x, _ in pixels(2)]
    held_by(tmp_path / "a.parquet", images, [0, 1])
    other = FEATURES | {"label": {"names": ["bee", "cow"], "_type": "ClassLabel"}}
    held_by(tmp_path / "b.parquet", images, [0, 1], other)
    with pytest.raises(ImageError, match=r"b\.parquet has other columns or classes than a\.parquet"):
        source_of(tmp_path)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ImageError, match=r"b\.parquet cannot be read: [^\n]*$"):
        source_of([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "dataset_info.json").write_text("{}")
    with pytest.raises(ImageError, match=r"empty is a folder without an image: 1 file skipped: 1 \.json"):
        source_of(tmp_path / "empty")


def test_a_parquet_table_may_be_a_folder_of_parts(images, tmp_path):
    whole = read(source_of(images))
    for number, (name, label, _) in enumerate(whole):
        path = images / "table.parquet" / f"part-{number}.parquet"
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(pyarrow.table({"path": [name], "label": [label.text]}), path)
    same(read(source_of(images / "table.parquet")), whole)
    for number, (name, _, _) in enumerate(whole):
        held_by(tmp_path / "held.parquet" / f"part-{number}.parquet", [(images / name).read_bytes()], [1])
    found = read(source_of(tmp_path / "held.parquet"))
    assert [name for name, _, _ in found] == [f"part-{number}.parquet/0" for number in range(6)]
    assert all(torch.equal(x, y) for (_, _, x), (_, _, y) in zip(found, whole, strict=True))


def test_data_sets_as_the_library_writes_them(images, tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    datasets.disable_progress_bars()
    model, labels = loaded(), [0, 1, 0, 1, 0, -1]
    files = sorted(images.rglob("*.png"))
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=CLASSES))
    whole = datasets.Dataset.from_dict({"label": labels, "image": list(map(str, files))}, features=features)
    expected = expected_of([path.read_bytes() for path in files], [*labels[:5], None], model)

    def found(given):
        return [(label, x.tolist()) for _, label, x in read(source_of(given), model)]

    assert found(whole) == expected
    whole.save_to_disk(tmp_path / "saved", num_shards=2)
    assert found(tmp_path / "saved") == expected
    whole.select([4, 1]).save_to_disk(tmp_path / "chosen")
    assert found(tmp_path / "chosen") == [expected[4], expected[1]]
    whole.to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    assert found(tmp_path / "hub") == expected
    both = datasets.DatasetDict(train=whole.select([3, 0]), test=whole.select([5]))
    both.save_to_disk(tmp_path / "both")
    assert found(tmp_path / "both") == [expected[3], expected[0], expected[5]]
    assert found(tmp_path / "both" / "test") == [expected[5]]
    with pytest.raises(TypeError, match=r"a DatasetDict has several parts, train, test: give one, \['train'\]"):
        source_of(both)
    with pytest.raises(ImageError, match="the data set has no column of images: it has label"):
        source_of(whole.remove_columns("image"))


def test_tars_as_webdataset_writes_them(images, tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    whole = read(source_of(images))
    with webdataset.ShardWriter(str(tmp_path / "shard-%03d.tar"), maxcount=4, verbose=0) as writer:
        for number, (name, label, _) in enumerate(whole):
            content = (images / name).read_bytes()
            writer.write({"__key__": f"a/{number:04d}", "png": content, "cls": label.class_index, "json": {"label": 9}})
    tars = sorted(tmp_path.glob("*.tar"))
    expected = [(label, x.tolist()) for _, label, x in whole]
    for given in (tars, tmp_path):
        if given is tmp_path:
            for path in images.rglob("*.png"):
                path.unlink()
        assert [(label, x.tolist()) for _, label, x in read(source_of(given))] == expected


@pytest.fixture
def memory():
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'deepviz[data]'")
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/", recursive=True)


def test_a_folder_behind_a_url_is_read_like_one_that_is_here(images, memory):
    memory.put(str(images), "/bucket/images", recursive=True)
    memory.pipe("/bucket/images/.hidden/a.png", b"")
    source = source_of("memory://bucket/images")
    here = source_of(images)
    assert (source.names, source.labels, tuple(source.sizes())) == (here.names, here.labels, tuple(here.sizes()))
    same(read(source), read(here))
    memory.pipe("/bucket/other/a.txt", b"")
    with pytest.raises(ImageError, match="memory://bucket/other is a folder without an image"):
        source_of("memory://bucket/other")


def test_urls_in_lists_and_tables(images, memory, tmp_path):
    whole = {name: (name, label, x) for name, label, x in read(source_of(images))}
    memory.put(str(images), "/images", recursive=True)
    names = ["bee/4.png", "ant/0.png", "cow/2.png"]
    urls = [f"memory://images/{name}" for name in names]
    found = read(source_of(urls))
    assert [(name, label, x.tolist()) for name, label, x in found] == [
        (url, None, whole[name][2].tolist()) for url, name in zip(urls, names, strict=True)
    ]
    table = "file_name,label\n" + "".join(f"{name},{name[:3]}\n" for name in names)
    memory.pipe("/images/table.csv", table.encode())
    same(read(source_of("memory://images/table.csv")), [whole[name] for name in names])
    (tmp_path / "table.csv").write_text("url,label\n" + "".join(f"{url},{url[16:19]}\n" for url in urls))
    same(read(source_of(tmp_path / "table.csv")), [whole[name] for name in names])
    with pytest.raises(ImageError, match=r"^memory://images/no\.png does not exist$"):
        read(source_of(["memory://images/no.png"]))
    with pytest.raises(ImageError, match=r"^memory://images/no\.csv does not exist$"):
        source_of("memory://images/no.csv")


def test_tars_and_data_sets_behind_urls(images, memory, tmp_path):
    whole = read(source_of(images))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, label, _ in whole:
            stem = name.partition(".")[0]
            tar.add(images / name, name)
            member = tarfile.TarInfo(f"{stem}.cls")
            member.size = len(label.text)
            tar.addfile(member, io.BytesIO(label.text.encode()))
    memory.put(str(tmp_path / "a.tar"), "/tars/a.tar")
    same(read(source_of("memory://tars/a.tar")), whole)
    same(read(source_of("memory://tars")), whole)
    held_by(tmp_path / "a.parquet", [(images / name).read_bytes() for name, _, _ in whole], [1, 1, 0, 0, 0, 0])
    memory.put(str(tmp_path / "a.parquet"), "/held/a.parquet")
    same(read(source_of("memory://held")), read(source_of(tmp_path / "a.parquet")))
    held_by(tmp_path / "a.arrow", [(images / whole[0][0]).read_bytes()], [1])
    memory.put(str(tmp_path / "a.arrow"), "/arrow/a.arrow")
    memory.pipe("/arrow/dataset_info.json", b"{}")
    with pytest.raises(ImageError, match=r"a\.arrow is an Arrow file, which has to be on this machine: download it"):
        source_of("memory://arrow")


def test_a_run_of_an_archive_shows_its_images_also_from_workers(images, tmp_path):
    pytest.importorskip("zarr")
    pytest.importorskip("fsspec")
    shutil.make_archive(str(tmp_path / "images"), "zip", images)
    url = f"zip://::{tmp_path / 'images.zip'}"
    same(read(source_of(url)), read(source_of(images)))
    run = deepviz.run(loaded(), url, "gradient", out=tmp_path / "out", workers=2, shard_size=2)
    for index, name in enumerate(source_of(images).names):
        with Image.open(images / name) as picture:
            assert run.explanation(index).image.tobytes() == picture.tobytes()


def test_addresses_on_the_web(images):
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    handler = partial(SimpleHTTPRequestHandler, directory=str(images))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        ((name, label, x),) = read(source_of(f"{root}/bee/4.png?size=full"))
        assert (name, label) == (f"{root}/bee/4.png?size=full", None)
        assert torch.equal(x, loaded().prepare(images / "bee" / "4.png").x)
        with pytest.raises(ImageError, match=r"no\.png does not exist$"):
            read(source_of([f"{root}/no.png"]))
        server.shutdown()


def test_what_a_url_needs_is_told():
    pytest.importorskip("fsspec")
    with pytest.raises(ImageError, match=r"^nosuch://a/b\.csv cannot be read: ValueError: Protocol not known: nosuch$"):
        source_of("nosuch://a/b.csv")
    if find_spec("gcsfs") is None:
        with pytest.raises(MissingExtra, match=r"^gs://a needs another package: pip install gcsfs$"):
            source_of("gs://a/b.csv")
