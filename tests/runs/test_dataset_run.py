import json
import os
import random
import shutil
import signal
import socket
import time

import numpy as np
import pytest
import torch
from PIL import Image

import deepviz
from deepviz.errors import ImageError, ModelError, NothingApplies, OutputError, StoredError
from deepviz.objectives import Candidates
from deepviz.results.shards import MapArrays
from deepviz.runs.lock import locked
from tiny_run import IMAGES, METHODS, SHARD, contents, ended, folder_of_images, loaded, network, pixels, started

zarr = pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install 'deepviz[data]'")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    begun = time.monotonic()
    assert ended(started(out)) == 0
    return out, time.monotonic() - begun


def test_the_maps_and_scores_are_those_of_explain(tmp_path):
    images = pixels(7)
    run = deepviz.run(network(), images, METHODS, out=tmp_path, top_k=2, shard_size=3)
    expected = deepviz.explain(network(), [x for x, _ in images], METHODS, top_k=2)
    rows = run.rows.to_pylist()
    assert len(expected) == len(rows) == 7 * 2 * 2
    for row, one in zip(rows, expected, strict=True):
        found = run.map(row["index"], row["method"], rank=row["rank"])
        # 11 bits of each value, or 2^-25 of the largest where float16 is subnormal
        bound = one.attribution.abs().max() * 2**-25 + one.attribution.abs() * 2**-11
        assert bool(((found - one.attribution).abs() <= bound * 1.001).all())
        assert (row["title"], row["target_index"], row["target"]) == (one.title, one.target.index, one.target.label)
        assert row["score"] == pytest.approx(one.target.score, rel=1e-5)
        assert row["probability"] == pytest.approx(one.predictions[0][1], rel=1e-5)
        assert row["label"] == f"class {images[row['index']][1]}"
        assert row["correct"] == (one.predictions[0][0] == row["label"])
        again = run.explanation(row["index"], one.method, rank=row["rank"])
        assert (again.title, again.layer, again.target.label) == (one.title, one.layer, one.target.label)
        assert torch.equal(again.attribution, found)


def test_a_run_that_is_killed_again_and_again_ends_with_the_files_of_one_that_is_not(undisturbed, tmp_path):
    whole, seconds = undisturbed
    moments, kills = random.Random(0), 0
    while kills < 10:
        process = started(tmp_path)
        process.join(moments.uniform(0.05, min(0.6, seconds / 3)))
        if process.exitcode is not None:
            assert process.exitcode == 0
            break
        os.kill(process.pid, signal.SIGKILL)
        kills += 1
        ended(process)
    assert ended(started(tmp_path)) == 0
    assert contents(tmp_path) == contents(whole)
    assert deepviz.Run(tmp_path).verify() == []
    assert kills >= 3


def test_three_workers_write_the_files_of_one_process_also_if_one_is_killed(undisturbed, tmp_path):
    killed = []

    def kill_one(done, total):
        children = [pid for pid in os.listdir("/proc") if pid.isdigit() and parent(pid) == os.getpid()]
        if done > 2 * SHARD and not killed and children:
            killed.append(max(map(int, children)))
            os.kill(killed[0], signal.SIGKILL)

    out = tmp_path / "out"
    deepviz.run(network(), pixels(), METHODS, out=out, metrics=["sparseness"], shard_size=SHARD, workers=3,
                progress=kill_one)  # fmt: skip
    assert killed
    assert contents(out) == contents(undisturbed[0])


class Logged(torch.utils.data.Dataset):
    """Writes down which process has read which item."""

    def __init__(self, log):
        self.log = log

    def __len__(self):
        return 8

    def __getitem__(self, index):
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()} {index}\n")
        if index == 0:
            raise ValueError("the first cannot be read")
        return pixels(8)[index]


def test_each_process_begins_with_the_same_image(tmp_path):
    # what is found out about a model on its first input must not depend on the shard that a worker begins with
    deepviz.run(network(), Logged(tmp_path / "log"), "gradient", out=tmp_path / "out", shard_size=2, workers=2)
    first = {}
    for line in (tmp_path / "log").read_text().splitlines():
        pid, index = map(int, line.split())
        first.setdefault(pid, index)
    assert first.pop(os.getpid()) == 0  # which tries the first ones until one can be read
    assert set(first.values()) == {1}


def test_what_a_killed_worker_had_half_written_is_gone_at_the_end(undisturbed, tmp_path):
    def leave(done, total):
        if done == 2 * SHARD:
            (tmp_path / "rows" / ".0123.part").write_bytes(b"half")
            (tmp_path / "maps" / ".4567.part").write_bytes(b"half")

    deepviz.run(network(), pixels(), METHODS, out=tmp_path, metrics=["sparseness"], shard_size=SHARD, progress=leave)
    assert set(contents(tmp_path)) == set(contents(undisturbed[0]))


def parent(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return None


def test_a_shard_that_ends_every_worker_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"shard 1, images 4 to 7: its worker process ended 3 times, .* by signal 9"):
        deepviz.run(network(), Deadly(), "gradient", out=tmp_path, shard_size=4, workers=2)
    assert not (tmp_path / "lock").exists()


class Deadly(torch.utils.data.Dataset):
    """The process that reads its item 5 is ended."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return pixels(8)[index]


def test_workers_that_end_before_they_begin_end_the_run(tmp_path):
    with pytest.raises(ModelError, match=r"each worker process ended before it held the model, .* exit code 7: use"):
        deepviz.run(network(), Unreadable(), "gradient", out=tmp_path, shard_size=4, workers=2)
    assert not (tmp_path / "lock").exists()


class Unreadable(Deadly):
    """The process that reads it from a pickle is ended."""

    def __getitem__(self, index):
        return pixels(8)[index]

    def __getstate__(self):
        return {"leader": os.getpid()}

    def __setstate__(self, state):
        if os.getpid() != state["leader"]:
            os._exit(7)


def test_what_cannot_be_sent_to_a_worker_is_said_before_any_work(tmp_path):
    model = network()
    model.register_forward_hook(lambda *_: None)
    with pytest.raises(ModelError, match=r"cannot be sent to another process .*: leave out workers"):
        deepviz.run(model, pixels(4), "gradient", out=tmp_path, workers=2)
    assert not (tmp_path / "rows").exists()


def flipped(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)


def test_a_flipped_byte_of_maps_is_found_and_computed_again(tmp_path):
    run = deepviz.run(network(), pixels(9), METHODS, out=tmp_path, shard_size=4)
    before = contents(tmp_path)
    path = next(path for path in sorted((tmp_path / "maps").rglob("c/1/*/*/*")) if path.is_file())
    flipped(path, path.stat().st_size // 3)
    (problem,) = run.verify()
    assert problem == f"{path} is damaged: its SHA-256 is not that of the shard's rows"
    with pytest.warns(deepviz.DeepVizWarning, match="damaged.*; shard 1 is computed again"):
        again = deepviz.run(network(), pixels(9), METHODS, out=tmp_path, shard_size=4)
    assert again.verify() == []
    assert contents(tmp_path) == before


def test_a_flipped_byte_of_rows_is_found_or_changes_nothing(tmp_path):
    run = deepviz.run(network(), pixels(4), "gradient", out=tmp_path, shard_size=2)
    path, rows = tmp_path / "rows" / "00000001.parquet", run.rows.to_pylist()
    whole, found = path.read_bytes(), 0
    for place in range(0, len(whole), len(whole) // 60):
        flipped(path, place)
        problems = run.verify()
        assert problems or deepviz.Run(tmp_path).rows.to_pylist() == rows
        found += bool(problems)
        path.write_bytes(whole)
    assert found > 15
    path.write_bytes(whole[:-1])
    with pytest.raises(StoredError, match=r"is damaged: .*; the run's command computes it again"):
        deepviz.Run(tmp_path).rows  # noqa: B018
    path.write_bytes(whole)
    flipped(path, 4)
    with pytest.warns(deepviz.DeepVizWarning, match="damaged.*; shard 1 is computed again"):
        deepviz.run(network(), pixels(4), "gradient", out=tmp_path, shard_size=2)
    assert path.read_bytes() == whole


def test_a_file_of_maps_that_is_gone_is_computed_again(undisturbed, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path / "out")
    path = next(path for path in sorted((tmp_path / "out" / "maps").rglob("c/3/*/*/*")) if path.is_file())
    path.unlink()
    assert deepviz.Run(tmp_path / "out").verify() == [f"{path} cannot be read: No such file or directory"]
    assert ended(started(tmp_path / "out")) == 0
    assert contents(tmp_path / "out") == contents(undisturbed[0])


def test_a_column_of_another_type_is_damage(tmp_path):
    # which a flipped byte of the file's metadata makes of a column that is empty
    run = deepviz.run(network(), pixels(4), "gradient", out=tmp_path, shard_size=2)
    path = tmp_path / "rows" / "00000001.parquet"
    table = parquet.read_table(path, partitioning=None)
    place = table.column_names.index("reason")
    table = table.set_column(place, "reason", table["reason"].cast("binary"))
    parquet.write_table(table, path)
    assert run.verify() == [f"{path} is damaged: its columns are not those that were written"]
    with pytest.raises(StoredError, match="its columns are not those that were written"):
        deepviz.Run(tmp_path).rows  # noqa: B018


def test_a_flipped_byte_of_a_map_is_an_error_where_it_is_read(tmp_path):
    run = deepviz.run(network(), pixels(4), "gradient", out=tmp_path)
    expected = [run.map(index) for index in range(4)]
    (path,) = (path for path in (tmp_path / "maps").rglob("c/0/*/*/*") if path.is_file())
    whole = path.read_bytes()
    path.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    again = deepviz.Run(tmp_path)
    with pytest.raises(StoredError, match="map 0, is damaged"):
        again.map(0)
    assert torch.equal(again.map(3), expected[3])


def test_a_second_run_in_the_folder_is_told(tmp_path):
    with locked(tmp_path), pytest.raises(OutputError, match=f"a run is under way in .* .process {os.getpid()} on"):
        deepviz.run(network(), pixels(2), "gradient", out=tmp_path)
    assert not (tmp_path / "lock").exists()
    deepviz.run(network(), pixels(2), "gradient", out=tmp_path)


@pytest.mark.parametrize(
    ("held", "age"),
    [({"pid": 2**22 + 1, "host": socket.gethostname()}, 0), ({"pid": 1, "host": "another machine"}, 100)],
)
def test_the_lock_of_a_run_that_is_gone_is_taken_over(held, age, tmp_path):
    (tmp_path / "lock").write_text(json.dumps(held))
    os.utime(tmp_path / "lock", (time.time() - age,) * 2)
    with locked(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "lock").exists()


def test_of_runs_that_begin_together_in_one_folder_one_goes_on_and_the_others_are_told(undisturbed, tmp_path):
    out = tmp_path / "out"
    processes = [started(out, told=str(tmp_path / str(number))) for number in range(4)]
    assert [ended(process) for process in processes] == [0] * 4
    told = [path.read_text() for path in tmp_path.glob("[0-3]")]
    assert len(told) <= 3  # those that come late find it done
    assert all(one.startswith(f"OutputError: a run is under way in {out} (process ") for one in told)
    assert contents(out) == contents(undisturbed[0])


def test_a_lock_of_another_machine_that_shows_signs_of_life_is_left(tmp_path):
    (tmp_path / "lock").write_text(json.dumps({"pid": 1, "host": "another machine"}))
    with pytest.raises(OutputError, match="process 1 on another machine"), locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"seed": 3}, "the weights, the structure or the preprocessing of the model"),
        ({"count": 5}, r"the number of images \(4, now 5\)"),
        ({"top_k": 2}, r"top_k \(1, now 2\)"),
        ({"target": 1}, r"the target \(the predicted classes, now logit\(1\)\)"),
        ({"shard_size": 3}, r"the size of a shard \(2, now 3\)"),
    ],
)
def test_another_question_in_the_folder_is_refused_and_says_what_differs(change, word, tmp_path):
    deepviz.run(network(), pixels(4), "gradient", out=tmp_path, shard_size=2)
    before = contents(tmp_path)
    asked = {"seed": 0, "count": 4, "shard_size": 2} | change
    with pytest.raises(OutputError, match=f"it differs in {word}; choose another folder"):
        deepviz.run(network(asked.pop("seed")), pixels(asked.pop("count")), "gradient", out=tmp_path, **asked)
    assert contents(tmp_path) == before


class Scaled(torch.nn.Module):
    """A network whose last factor is in no file of weights."""

    def __init__(self):
        super().__init__()
        self.body = network()
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, x):
        return self.body(x) * self.scale


@pytest.mark.parametrize("place", ["scale", "body.conv.weight"])
def test_what_is_changed_in_place_between_two_calls_is_another_question(place, tmp_path):
    model = Scaled()
    deepviz.run(model, pixels(4), "gradient", out=tmp_path / "a")
    dict([*model.named_buffers(), *model.named_parameters()])[place].data.mul_(-3)  # no version counter sees this
    with pytest.raises(OutputError, match="it differs in the weights"):
        deepviz.run(model, pixels(4), "gradient", out=tmp_path / "a")
    changed = deepviz.run(model, pixels(4), "gradient", out=tmp_path / "b").map(0)
    (expected,) = deepviz.explain(model, pixels(1)[0][0], "gradient", fast=False)
    assert torch.allclose(changed, expected.attribution, rtol=2**-10, atol=float(changed.abs().max()) * 2**-20)


def test_a_method_and_a_metric_that_are_added_later_give_the_files_of_asking_at_once(tmp_path):
    once, later = tmp_path / "once", tmp_path / "later"
    options = {"shard_size": 4, "top_k": 2}
    metrics = ["sparseness", "deletion(steps=4)"]
    deepviz.run(network(), pixels(9), METHODS, out=once, metrics=metrics, **options)
    deepviz.run(network(), pixels(9), METHODS[:1], out=later, **options)
    maps = {path: path.stat().st_mtime_ns for path in (later / "maps").rglob("c/*/*/*/*")}
    deepviz.run(network(), pixels(9), METHODS[:1], out=later, metrics=metrics[:1], **options)
    run = deepviz.run(network(), pixels(9), METHODS[1:], out=later, metrics=metrics[1:], **options)
    assert contents(later) == contents(once)
    assert {path: path.stat().st_mtime_ns for path in maps} == maps
    assert (run.methods, run.metrics) == (tuple(METHODS), tuple(metrics))
    assert run.rows["deletion(steps=4)"].null_count == 0


def test_a_metric_is_that_of_the_map_as_it_is_stored(tmp_path):
    run = deepviz.run(network(), pixels(3), "gradient", out=tmp_path, metrics=["deletion", "max-sensitivity"])
    for row in run.rows.to_pylist():
        x, stored = pixels(3)[row["index"]][0][None], run.map(row["index"])[None]
        deletion = deepviz.metrics.Deletion(channels="magnitude")(network(), x, stored, row["target_index"])
        assert row["deletion"] == pytest.approx(float(deletion), abs=1e-6)
        by_method = deepviz.metrics.MaxSensitivity()(network(), x, deepviz.methods.Gradient(), row["target_index"])
        assert row["max-sensitivity"] == pytest.approx(float(by_method), rel=1e-5)


def test_what_cannot_be_read_is_a_row_with_a_reason_and_can_be_tried_again(tmp_path):
    source, out = folder_of_images(tmp_path / "images"), tmp_path / "out"
    broken = source / "bee" / "1.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    run = deepviz.run(loaded(), source, METHODS, out=out, shard_size=2)
    (row,) = run.where("failure").rows.to_pylist()
    assert (row["image"], row["label"], row["method"], row["failure"]) == ("bee/1.png", "bee", None, "ImageError")
    assert row["reason"].startswith(f"{broken} cannot be decoded")
    assert len(run.where("not failure")) == 5
    with pytest.raises(LookupError, match=r"bee/1\.png has no map of gradient: .* cannot be decoded"):
        run.map(row["index"], "gradient")
    broken.write_bytes(whole)
    with pytest.raises(OutputError, match="it differs in the sizes of files"):
        deepviz.run(loaded(), source, METHODS, out=out, shard_size=2)
    deepviz.run(loaded(), source, METHODS, out=out, shard_size=2, retry_failed=True)
    deepviz.run(loaded(), source, METHODS, out=tmp_path / "other", shard_size=2)
    assert contents(out) == contents(tmp_path / "other")


def repainted(path, colour):
    """Another image in a file of the same name and size; BMP files are not compressed."""
    before = path.stat().st_size
    Image.new("RGB", (14, 14), colour).save(path)
    assert path.stat().st_size == before


@pytest.fixture
def bitmaps(tmp_path):
    for number in range(6):
        path = tmp_path / "bitmaps" / f"{number}.bmp"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (14, 14), (40 * number, 90, 120)).save(path)
    return tmp_path / "bitmaps"


@pytest.mark.parametrize("added", [{"methods": METHODS}, {"metrics": ["sparseness"]}])
@pytest.mark.parametrize("number", [0, 3])  # the one that is tried first, and another
def test_an_image_that_has_changed_is_not_mixed_with_what_was_explained(number, added, bitmaps, tmp_path):
    out, options = tmp_path / "out", {"methods": "gradient", "shard_size": 2}
    deepviz.run(loaded(), bitmaps, out=out, **options)
    repainted(bitmaps / f"{number}.bmp", "red")
    with pytest.raises(OutputError, match=rf"{number}\.bmp differs from what was explained in .*retry_failed=True"):
        deepviz.run(loaded(), bitmaps, out=out, **options | added)
    deepviz.run(loaded(), bitmaps, out=out, **options | added, retry_failed=True)
    deepviz.run(loaded(), bitmaps, out=tmp_path / "other", **options | added)
    assert contents(out) == contents(tmp_path / "other")


def test_a_preprocessing_that_looks_the_same_is_found_by_what_it_returns(bitmaps, tmp_path):
    def filled(value):
        return lambda picture: torch.full((3, 12, 12), value)

    out, options = tmp_path / "out", {"out": tmp_path / "out", "shard_size": 2}
    deepviz.run(network(), bitmaps, "gradient", preprocess=filled(0.1), **options)
    (out / "rows" / "00000002.parquet").unlink()
    with pytest.raises(OutputError, match="the image or its preprocessing has changed"):
        deepviz.run(network(), bitmaps, "gradient", preprocess=filled(0.2), **options)


def test_all_files_that_were_mended_are_computed_again_also_beside_those_that_had_failed(tmp_path):
    source, out = folder_of_images(tmp_path / "images"), tmp_path / "out"
    broken, replaced = source / "ant" / "0.png", source / "cow" / "5.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    deepviz.run(loaded(), source, "gradient", out=out, shard_size=2)
    broken.write_bytes(whole)
    Image.new("RGB", (30, 30), "red").save(replaced)
    with pytest.raises(OutputError, match=r"differs in the sizes of files \(retry_failed=True"):
        deepviz.run(loaded(), source, "gradient", out=out, shard_size=2)
    deepviz.run(loaded(), source, "gradient", out=out, shard_size=2, retry_failed=True)
    deepviz.run(loaded(), source, "gradient", out=tmp_path / "other", shard_size=2)
    assert contents(out) == contents(tmp_path / "other")


class Once(torch.utils.data.Dataset):
    """Its items can be read a number of times."""

    def __init__(self, times):
        self.left = [times] * 4

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if not self.left[index]:
            raise OSError("the disk is gone")
        self.left[index] -= 1
        return pixels(4)[index]


def test_an_image_that_cannot_be_read_any_more_does_not_become_a_failure_beside_its_maps(tmp_path):
    source = Once(9)
    source.left[2] = 1
    deepviz.run(network(), source, "gradient", out=tmp_path)
    before = contents(tmp_path / "rows")
    with pytest.raises(ImageError, match="2 was explained before, and cannot be read: OSError: the disk is gone"):
        deepviz.run(network(), source, ["gradient", "grad-cam"], out=tmp_path)
    assert contents(tmp_path / "rows") == before


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_a_method_that_does_not_apply_is_an_error_before_any_work_unless_all_are_asked_for(tmp_path):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 12, 3))
    with pytest.raises(NothingApplies, match="Guided backprop does not apply: "):
        deepviz.run(model, pixels(3), ["gradient", "guided-backprop"], out=tmp_path / "named")
    assert not (tmp_path / "named" / "rows").exists()
    run = deepviz.run(model, pixels(3), "all", out=tmp_path / "all")
    skipped = run.where("failure == 'Skipped'")
    assert "guided-backprop" in skipped.rows["method"].to_pylist()
    assert len(run.where("method == 'gradient' and not failure")) == 3


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_what_could_not_begin_leaves_the_folder_as_it_was(tmp_path):
    out, source = tmp_path / "out", folder_of_images(tmp_path / "images")
    with pytest.raises(ImageError, match="nowhere does not exist"):
        deepviz.run(loaded(), tmp_path / "nowhere", "gradient", out=out)
    assert deepviz.run(loaded(), source, "gradient", out=out).methods == ("gradient",)
    model, out = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 12, 3)), tmp_path / "linear"
    deepviz.run(model, pixels(3), "gradient", out=out)
    before = contents(out)
    with pytest.raises(NothingApplies, match="Guided backprop does not apply: "):
        deepviz.run(model, pixels(3), "guided-backprop", out=out)
    assert contents(out) == before
    deepviz.run(model, pixels(3), "gradient", out=out)


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_a_run_of_all_methods_can_be_gone_on_with_by_naming_one(tmp_path):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 12, 3))
    deepviz.run(model, pixels(4), "all", out=tmp_path, shard_size=2)
    before = contents(tmp_path)
    (tmp_path / "rows" / "00000001.parquet").unlink()
    deepviz.run(model, pixels(4), "gradient", out=tmp_path, shard_size=2)
    assert contents(tmp_path) == before


def test_maps_that_are_not_finite_are_rows_with_a_reason(tmp_path):
    images = [(torch.full((3, 4, 4), 1e30 if number == 1 else 1.0), 0) for number in range(3)]
    run = deepviz.run(Squared(), images, "grad-times-image", out=tmp_path)
    failed = run.where("failure")
    assert failed.images == (1,)
    assert all(failed.rows["reason"].to_pylist())
    assert torch.isfinite(run.map(2)).all()


class Squared(torch.nn.Module):
    """Of an image of 1e30, the score is not finite in float32."""

    def forward(self, x):
        return torch.stack([x.pow(2).sum((1, 2, 3)), x.sum((1, 2, 3))], 1)


def test_the_files_are_read_without_deepviz(tmp_path):
    pandas, zarr = pytest.importorskip("pandas"), pytest.importorskip("zarr")
    run = deepviz.run(network(), pixels(9), METHODS, out=tmp_path, shard_size=4, top_k=2)
    rows = pandas.concat(pandas.read_parquet(path) for path in sorted((tmp_path / "rows").glob("*.parquet")))
    assert len(rows) == 9 * 2 * 2
    group = zarr.open_group(tmp_path / "maps", mode="r")
    for row in rows[rows.method == "grad-cam"].itertuples():
        array = zarr.open_array(tmp_path / row.map, mode="r")
        stored = array[row.position]
        assert stored.dtype == np.float16
        assert array.chunks == (1, *stored.shape)
        expected = run.map(row.index, "grad-cam", rank=row.rank).numpy()
        assert np.array_equal(stored.astype(np.float32) * np.float32(row.maximum), expected)
        assert np.abs(stored).max() in (0, 1)
        assert np.array_equal(group[row.map.removeprefix("maps/")][row.position], stored)
    assert len(run.to_pandas()) == len(rows)


@pytest.mark.parametrize("shape", [(3, 7, 5), (1, 4), (2, 3, 4, 2)])
def test_a_file_of_maps_is_byte_by_byte_what_zarr_writes(tmp_path, shape):
    generator = np.random.default_rng(0)
    values = generator.normal(size=(14, *shape)).astype(np.float16)
    arrays = MapArrays(tmp_path, images=7, shard_size=5, each=2)
    files = arrays.write("maps", 0, values[:10]) | arrays.write("maps", 1, values[10:])
    found = contents(tmp_path)
    assert found | files == found
    array = zarr.open_array(tmp_path / "maps", mode="r+", config={"write_empty_chunks": True})
    assert np.array_equal(array[:], values)
    array[:10], array[10:] = values[:10], values[10:]
    assert contents(tmp_path) == found


def test_images_of_unlike_sizes_have_arrays_of_their_own(tmp_path):
    images = [(torch.rand(3, 8, 8 + 2 * (number % 2)), 0) for number in range(6)]
    run = deepviz.run(network(), images, "gradient", out=tmp_path, shard_size=3)
    assert [tuple(run.map(index).shape) for index in range(4)] == [(3, 8, 8), (3, 8, 10)] * 2
    assert run.verify() == []


def test_one_map_of_many_is_read_without_the_others(tmp_path, monkeypatch):
    run = deepviz.run(network(), pixels(64), "gradient", out=tmp_path)
    (path,) = (path for path in (tmp_path / "maps").rglob("c/0/*/*/*") if path.is_file())
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)  # the index is at the end
    path.write_bytes(content)
    assert run.map(63).shape == (3, 12, 12)


@pytest.mark.parametrize(
    ("size", "where", "workers"), [(600, "manifest", 1), (3000, "maps", 1), (3000, "maps", 2), (9500, "rows", 1)]
)
def test_a_full_disk_is_one_line_and_the_run_goes_on_from_there(size, where, workers, undisturbed, tmp_path):
    out, told = tmp_path / "out", tmp_path / "told"
    assert ended(started(out, file_size=size, told=str(told), workers=workers)) == 0
    message = told.read_text()
    assert message.startswith(f"OutputError: cannot write {out}/{where}")
    assert "\n" not in message
    assert not (out / "lock").exists()
    assert ended(started(out)) == 0
    assert contents(out) == contents(undisturbed[0])


@pytest.mark.parametrize("number", [signal.SIGINT])
def test_an_interrupted_run_finishes_its_shard_and_says_how_to_go_on(number, undisturbed, tmp_path):
    out, told = tmp_path / "out", tmp_path / "told"
    process = started(out, told=str(told))
    for _ in range(2000):
        if (out / "rows").exists() or process.exitcode is not None:
            break
        time.sleep(0.005)
    os.kill(process.pid, number)
    assert ended(process) == 0
    run = deepviz.Run(out)
    done = len(run)
    assert done % SHARD == 0
    assert 0 < done < IMAGES
    assert told.read_text() == (
        f"KeyboardInterrupt: stopped after {done} of {IMAGES} images, all in {out}: the same command goes on"
    )
    assert all("is missing" in problem for problem in run.verify())
    assert ended(started(out)) == 0
    assert contents(out) == contents(undisturbed[0])


def test_nothing_in_the_files_tells_when_or_where_they_were_written(undisturbed, tmp_path):
    assert ended(started(tmp_path)) == 0
    assert contents(tmp_path) == contents(undisturbed[0])
    assert set(contents(tmp_path)) >= {"manifest.json", "rows/00000000.parquet", "maps/zarr.json"}


def test_the_picture_of_a_map_is_its_image_if_that_is_there(tmp_path):
    source = folder_of_images(tmp_path / "images")
    run = deepviz.run(loaded(), source, "gradient", out=tmp_path / "out")
    expected = deepviz.explain(loaded(), source, "gradient")
    for one, again in zip(expected, run.explanations(), strict=True):
        assert again.image.tobytes() == one.image.tobytes()
        assert again.overlay().size == (14, 14)
        assert again.caption == one.caption
    report = run.sample(2).report(tmp_path / "report.html")
    assert report.stat().st_size > 10_000
    for path in source.rglob("*.png"):
        path.unlink()
    assert run.explanation(0).image.getcolors() == [(14 * 14, (128, 128, 128))]


def test_a_moved_folder_of_images_is_the_same_question(tmp_path):
    source = folder_of_images(tmp_path / "images")
    deepviz.run(loaded(), source, "gradient", out=tmp_path / "out")
    moved = source.rename(tmp_path / "moved")
    run = deepviz.run(loaded(), moved, ["gradient", "grad-cam"], out=tmp_path / "out")
    assert run.methods == ("gradient", "grad-cam")
    assert isinstance(run.explanation(0, "grad-cam").image, Image.Image)


def test_a_callable_target_is_explained_and_not_gone_on_with(tmp_path):
    run = deepviz.run(network(), pixels(3), "gradient", out=tmp_path, target=lambda output: output[:, 1])
    expected = deepviz.explain(network(), [x for x, _ in pixels(3)], "gradient", target=1)
    for index, one in enumerate(expected):
        assert torch.allclose(
            run.map(index), one.attribution, rtol=1e-3, atol=float(one.attribution.abs().max()) * 1e-6
        )
    with pytest.raises(
        OutputError, match="whose target is a callable, and whether this is the same one cannot be known"
    ):
        deepviz.run(network(), pixels(3), "gradient", out=tmp_path, target=lambda output: output[:, 2])


class TwoInputs(torch.nn.Module):
    def forward(self, a, b):
        return torch.stack([a.square().sum((1, 2, 3)), b.square().sum((1, 2, 3))], 1)


@pytest.mark.filterwarnings("ignore:Gradient is all zero:deepviz.DeepVizWarning")
def test_the_maps_of_several_inputs_have_rows_and_arrays_of_their_own(tmp_path):
    items = [deepviz.Inputs((torch.rand(1, 3, 8, 8), torch.rand(1, 3, 6, 6))) for _ in range(3)]
    run = deepviz.run(TwoInputs(), items, "gradient", out=tmp_path, target=[0, 1])
    rows = run.rows.to_pylist()
    assert [(row["input"], row["rank"]) for row in rows[:4]] == [("x[0]", 0), ("x[1]", 0), ("x[0]", 1), ("x[1]", 1)]
    for row, one in zip(rows, run.explanations(), strict=True):
        leaf = items[row["index"]].x[int(row["input"][2])][0]
        own = 2 * leaf if row["input"] == f"x[{row['rank']}]" else torch.zeros_like(leaf)  # d(sum x^2)/dx, or 0
        assert torch.allclose(one.attribution, own, atol=2 * 2**-11)
        assert torch.equal(run.map(row["index"], rank=row["rank"], input=row["input"]), one.attribution)
    with pytest.raises(LookupError, match=r"there is no map of gradient for target 0 and input x\[2\] of 1"):
        run.map(1, input="x[2]")


def test_a_target_that_the_first_images_do_not_have_is_a_row_with_a_reason(tmp_path):
    images = [(torch.zeros(3, 12, 12), 0)] * 3 + [(torch.ones(3, 12, 12), 0)]
    run = deepviz.run(OneBox(), images, "gradient", out=tmp_path, output="detections")
    assert run.rows["failure"].to_pylist() == ["NothingDetected"] * 3 + [None]


class OneBox(torch.nn.Module):
    """Finds an object in what is bright."""

    def forward(self, x):
        logits = 20 * x.mean((1, 2, 3))[:, None, None] - 10
        return Candidates(torch.tensor([2.0, 2, 8, 8]).expand(len(x), 1, 4), logits, logits.sigmoid())


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(StoredError, match=r"holds no run: it has no manifest\.json"):
        deepviz.Run(tmp_path)
