"""Runs on a Ray cluster of several nodes, each with processes of its own, on this machine."""

import os
import signal
import sys
import time
from contextlib import suppress

import pytest

import deepviz
from deepviz.errors import MissingExtra, ModelError
from deepviz.runs import ray_workers
from tiny_run import IMAGES, METHODS, SHARD, contents, ended, network, pixels, started

pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")
OPTIONS = {"metrics": ["sparseness"], "shard_size": SHARD, "engine": "ray"}


def test_without_ray_the_line_that_installs_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"the engine ray needs Ray: pip install 'deepviz\[ray\]'"):
        deepviz.run(network(), pixels(4), "gradient", out=tmp_path, engine="ray")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [{"gpus": 0.5}, {"ray_address": "auto"}])
def test_what_is_for_ray_is_refused_without_it(tmp_path, option):
    with pytest.raises(ValueError, match=r"\(--gpus, --ray-address\) are for engine='ray'"):
        deepviz.run(network(), pixels(4), "gradient", out=tmp_path, **option)


def patiently(start):
    """What `start` makes, up to three times: where other tests run, a node may take longer than Ray's 30 s."""
    for _ in range(2):
        with suppress(Exception):
            return start()
    return start()


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="ray is not installed: pip install 'deepviz[ray]'")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 1}))
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    assert ended(started(out)) == 0
    return out


def test_a_node_that_vanishes_changes_nothing(cluster, undisturbed, tmp_path):
    nodes = [patiently(lambda: cluster.add_node(num_cpus=1)) for _ in range(2)]
    told = []

    def vanish(done, total):
        told.append(done)
        if done >= 2 * SHARD and len(nodes) == 2:
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    out = tmp_path / "out"
    deepviz.run(network(), pixels(), METHODS, out=out, workers=3, progress=vanish, **OPTIONS)
    assert len(nodes) == 1
    assert told[0] == 0
    assert told[-1] == IMAGES
    assert contents(out) == contents(undisturbed)
    assert not (out / "lock").exists()


def test_a_shard_that_ends_every_actor_is_named(cluster, tmp_path):
    with pytest.raises(ModelError, match=r"shard 1, images 4 to 7: its Ray actor ended 3 times, .*ActorDied"):
        deepviz.run(network(), Deadly(), "gradient", out=tmp_path, shard_size=4, engine="ray")
    assert not (tmp_path / "lock").exists()


class Deadly:
    """The process that reads its item 5 is ended."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return pixels(8)[index]


def test_a_cluster_that_has_no_room_is_told(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_workers, "NOTED", 0.5)
    monkeypatch.setattr(ray_workers, "PATIENCE", 1.5)
    asks = r"each asks for 1 CPUs and 3 GPUs, and the cluster has \d+ and 0"
    with (
        pytest.warns(deepviz.DeepVizWarning, match=f"no worker has begun yet: {asks}"),
        pytest.raises(ModelError, match=f"no worker has begun for .* minutes: {asks}"),
    ):
        deepviz.run(network(), pixels(4), "gradient", out=tmp_path, gpus=3, **OPTIONS)


def test_a_cluster_that_cannot_be_reached_is_told(tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'deepviz[ray]'")
    with pytest.raises(ModelError, match=r"the Ray cluster at 127\.0\.0\.1:1 cannot be used"):
        deepviz.run(network(), pixels(4), "gradient", out=tmp_path, engine="ray", ray_address="127.0.0.1:1")


def test_an_interrupted_run_finishes_its_shards_and_the_same_goes_on(cluster, undisturbed, tmp_path):
    out, told = tmp_path / "out", tmp_path / "told"
    process = started(out, told=str(told), engine="ray", ray_address=cluster.address)
    while not (out / "rows").exists() and process.exitcode is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    assert ended(process) == 0
    done = len(deepviz.Run(out))
    assert done % SHARD == 0
    assert 0 < done < IMAGES
    assert told.read_text() == (
        f"KeyboardInterrupt: stopped after {done} of {IMAGES} images, all in {out}: the same command goes on"
    )
    assert ended(started(out)) == 0
    assert contents(out) == contents(undisturbed)
