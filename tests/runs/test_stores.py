"""Runs in folders behind URLs: of this process, of a file system without renaming, and of an S3 server."""

import hashlib
import json
import os
import random
import signal
import time
from multiprocessing import get_context
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import torch

import deepviz
from deepviz.errors import OutputError, StoredError
from deepviz.remote import RemotePath, path_of
from deepviz.runs import lock
from tiny_run import IMAGES, METHODS, SHARD, contents, folder_of_images, loaded, network, pixels

pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")
pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'deepviz[data]'")
import object_store

ASKED = {"metrics": ["sparseness"], "shard_size": SHARD}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    deepviz.run(network(), pixels(), METHODS, out=out, **ASKED)
    return contents(out)


@pytest.fixture(scope="module")
def server():
    """An S3 server of this machine, and the environment by which it is found."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    started = moto.ThreadedMotoServer(port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    yield {"AWS_ENDPOINT_URL": f"http://{host}:{port}", **keys}
    started.stop()


@pytest.fixture(params=["memory", "bucket", "s3"])
def store(request, tmp_path, monkeypatch):
    """The URL of an empty folder, and the environment that it takes."""
    if request.param == "memory":
        yield f"memory://{tmp_path.name}/run", {}
        object_store.fsspec.filesystem("memory").rm("/", recursive=True)
    elif request.param == "bucket":
        yield f"bucket://{tmp_path}/run", {}
    else:
        environment = request.getfixturevalue("server")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        bucket = f"a{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]}"
        urlopen(Request(f"{environment['AWS_ENDPOINT_URL']}/{bucket}", method="PUT")).close()
        yield f"s3://{bucket}/run", environment


several = pytest.mark.parametrize("store", ["bucket", "s3"], indirect=True)


def stored(url):
    """The SHA-256 of each file behind a URL."""
    folder = path_of(url)
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in folder.below()}


def test_the_files_are_those_of_a_folder_on_this_machine(store, undisturbed):
    url, _ = store
    run = deepviz.run(network(), pixels(), METHODS, out=url, **ASKED)
    assert stored(url) == undisturbed
    again = deepviz.Run(url)
    assert repr(again) == repr(run) == f"Run('{url}', {IMAGES} images, methods: gradient, grad-cam)"
    assert again.rows.num_rows == IMAGES * 2
    assert again.is_complete
    assert again.verify() == []
    expected = deepviz.explain(network(), pixels()[77][0], "gradient")[0].attribution
    assert torch.allclose(again.map(77, "gradient"), expected, rtol=1e-3, atol=float(expected.abs().max()) * 2**-11)
    assert again.explanation(77, "gradient").caption


def test_a_run_goes_on_and_takes_methods_as_on_this_machine(store, tmp_path):
    url, _ = store
    deepviz.run(network(), pixels(30), "gradient", out=url, shard_size=10)
    folder = path_of(url)
    (folder / "rows" / "00000001.parquet").unlink()
    (array,) = (name for name in folder.below() if name.endswith("c/2/0/0/0"))
    (folder / array).unlink()
    with pytest.warns(deepviz.DeepVizWarning, match=r"c/2/0/0/0 cannot be read: .*; shard 2 is computed again"):
        deepviz.run(network(), pixels(30), METHODS, out=url, shard_size=10)
    deepviz.run(network(), pixels(30), METHODS, out=url, shard_size=10)
    deepviz.run(network(), pixels(30), "gradient", out=tmp_path / "here", shard_size=10)
    deepviz.run(network(), pixels(30), METHODS, out=tmp_path / "here", shard_size=10)
    assert stored(url) == contents(tmp_path / "here")
    with pytest.raises(OutputError, match="differs in the weights, the structure or the preprocessing of the model"):
        deepviz.run(network(1), pixels(30), METHODS, out=url, shard_size=10)


def test_damaged_maps_are_found_by_verify(store):
    url, _ = store
    run = deepviz.run(network(), pixels(12), "gradient", out=url)
    (array,) = (name for name in path_of(url).below() if name.endswith("c/0/0/0/0"))
    content = (path_of(url) / array).read_bytes()
    (path_of(url) / array).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert run.verify() == [f"{url}/{array} is damaged: its SHA-256 is not that of the shard's rows"]
    with pytest.raises(StoredError, match="map 0, is damaged"):
        run.map(0)
    assert run.map(11).shape == (3, 12, 12)


def held(url, **about):
    """A lease of another process."""
    path = path_of(url) / "lock"
    path.write_bytes(json.dumps({"pid": 1, "host": "elsewhere", "token": "x"} | about).encode())
    return path


def test_a_second_command_is_told(store):
    url, _ = store
    held(url)
    with pytest.raises(OutputError, match=r"a run is under way in .* \(process 1 on elsewhere\): .* goes on in \d+ s$"):
        deepviz.run(network(), pixels(4), "gradient", out=url)
    assert path_of(url).below().keys() == {"lock"}


def test_a_lease_without_a_sign_of_life_is_taken_over(store, monkeypatch):
    url, _ = store
    monkeypatch.setattr(lock, "STALE", 1.0)
    monkeypatch.setattr(lock, "SETTLED", 0.1)
    held(url)
    time.sleep(2.1)  # S3 counts whole seconds
    assert len(deepviz.run(network(), pixels(4), "gradient", out=url)) == 4
    assert "lock" not in path_of(url).below()


def test_a_run_whose_lease_was_taken_over_ends(store, monkeypatch):
    url, _ = store
    monkeypatch.setattr(lock, "BEAT", 0.05)
    with lock.locked(path_of(url)) as check:
        for _ in range(3):
            time.sleep(0.1)
            check()
        for _ in range(50):
            path = held(url)  # again if it was renewed in the same moment
            time.sleep(0.2)
            try:
                check()
            except OutputError:
                break
        with pytest.raises(OutputError, match="another may have begun there"):
            check()
        assert json.loads(path.read_text())["host"] == "elsewhere"
    assert path.exists()


def test_rows_of_another_run_are_not_written_over(store, monkeypatch):
    url, _ = store

    class Meddled(list):
        """Another run writes the same shard while this one computes it."""

        def __getitem__(self, index):
            if index == 3:  # once the work has begun
                (path_of(url) / "rows" / "00000000.parquet").write_bytes(b"other rows")
            return super().__getitem__(index)

    with pytest.raises(OutputError, match=r"rows/00000000.parquet was written by another run: wait for it"):
        deepviz.run(network(), Meddled(pixels(4)), "gradient", out=url)
    path = path_of(url) / "rows" / "00000000.parquet"
    assert path.read_bytes() == b"other rows"
    monkeypatch.setattr(RemotePath, "exists", lambda path: False)  # it is the request that is refused
    with pytest.raises(FileExistsError):
        path.create(b"more")
    assert path.read_bytes() == b"other rows"


def started(store, stale, **options):
    process = get_context("forkserver").Process(target=object_store.go, args=(*store, stale), kwargs=options)
    process.start()
    return process


@several
def test_a_run_that_is_killed_goes_on_once_its_lease_has_ended(store, undisturbed):
    url, _ = store
    stale = 0.4 if url.startswith("bucket") else 1.5
    moments, kills = random.Random(0), 0
    for _ in range(4):
        process = started(store, stale)
        process.join(moments.uniform(0.3, 1.2))
        if process.exitcode is not None:
            assert process.exitcode == 0
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
        time.sleep(stale + 1.1)
    process = started(store, stale)
    process.join(120)
    assert process.exitcode == 0
    assert stored(url) == undisturbed
    assert kills >= 2


@several
def test_workers_write_to_the_store_themselves(store, undisturbed):
    url, _ = store
    deepviz.run(network(), object_store.Pixels(pixels()), METHODS, out=url, workers=2, **ASKED)
    assert stored(url) == undisturbed


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_workers_of_ray_write_to_the_store_themselves(store, undisturbed):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'deepviz[ray]'")
    process = started(store, 60.0, engine="ray", workers=2)
    process.join(240)
    assert process.exitcode == 0
    assert stored(store[0]) == undisturbed


def test_images_and_results_on_one_store(store, tmp_path):
    url, _ = store
    images = folder_of_images(tmp_path / "images")
    for path in images.rglob("*.png"):
        (path_of(url) / "images" / path.relative_to(images)).write_bytes(path.read_bytes())
    run = deepviz.run(loaded(), f"{url}/images", "gradient", out=f"{url}/results")
    deepviz.run(loaded(), images, "gradient", out=tmp_path / "here")
    here = deepviz.Run(tmp_path / "here")
    assert run.rows.equals(here.rows)
    assert run.explanation(4).image.tobytes() == here.explanation(4).image.tobytes()
    assert deepviz.diff(run, here).mean_change == 0
    (path_of(url) / "images" / "ant" / "0.png").write_bytes(b"no image any more")
    with pytest.raises(OutputError, match="differs in the sizes of files"):
        deepviz.run(loaded(), f"{url}/images", "gradient", out=f"{url}/results")


def test_a_url_that_is_a_path_is_told():
    with pytest.raises(ValueError, match=r"^s3:/bucket/run was a URL, of which a Path keeps one slash"):
        deepviz.run(network(), pixels(2), "gradient", out=Path("s3://bucket/run"))


def test_memory_of_this_process_is_no_place_for_workers():
    with pytest.raises(deepviz.errors.ModelError, match="memory://run exists in this process alone"):
        deepviz.run(network(), pixels(4), "gradient", out="memory://run", workers=2)


def test_a_store_that_is_not_there_is_one_line(server, monkeypatch):
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OutputError, match=r"^cannot write s3://no-such-bucket/run/[^\n]*; choose another place"):
        deepviz.run(network(), pixels(4), "gradient", out="s3://no-such-bucket/run")
    with pytest.raises(StoredError, match=r"^s3://no-such-bucket/run holds no run"):
        deepviz.Run("s3://no-such-bucket/run")
