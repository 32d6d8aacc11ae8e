"""What is taken as a photograph, and how many are kept."""

import hashlib
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from deepviz.errors import DeepVizWarning, ImageError
from deepviz.models.images import FORMATS
from deepviz.web.image_store import ImageStore, UnknownImage, decoded, safe_name, size_of
from deepviz.web.limits import Limits
from pictures import picture_file, png_header

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'


def frames():
    buffer = io.BytesIO()
    pictures = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "green")]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:])
    return buffer.getvalue()


def kept(**limits):
    forgotten = []
    return ImageStore(Limits(**limits), forgotten.append), forgotten


@pytest.mark.parametrize("kind", FORMATS)
def test_every_listed_format_is_taken(client, kind):
    content = picture_file(kind=kind)
    answer = client.post("/api/photographs?name=a.file", content=content)
    assert answer.status_code == 201
    assert answer.json() == {"id": hashlib.sha256(content).hexdigest(), "name": "a.file", "width": 40, "height": 30}


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


def test_heic_without_its_extra_says_what_to_install(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    answer = client.post("/api/photographs?name=a.heic", content=HEIC)
    assert answer.status_code == 422
    assert answer.json()["detail"] == "a.heic is HEIF, which needs pillow-heif: pip install 'deepviz[heif]'"


def test_heic_is_taken_with_its_extra(client):
    heif = pytest.importorskip("pillow_heif", reason="pip install 'deepviz[heif]'")
    buffer = io.BytesIO()
    heif.from_pillow(Image.new("RGB", (64, 48), (200, 30, 30))).save(buffer)
    answer = client.post("/api/photographs?name=a.heic", content=buffer.getvalue())
    assert answer.status_code == 201, answer.text
    assert (answer.json()["width"], answer.json()["height"]) == (64, 48)
    shown = Image.open(io.BytesIO(client.get(f"/api/photographs/{answer.json()['id']}?size=64").content))
    assert np.abs(np.asarray(shown.convert("RGB"), int) - (200, 30, 30)).max() < 8
    assert client.post("/api/photographs?name=a.heic", content=HEIC).status_code == 422, "damaged"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 422),
        (b"hello", 422),
        (SVG, 422),
        (b"GIF89a" + SVG, 422),
        (picture_file(kind="TGA"), 422),
        (picture_file(kind="ICO"), 422),
        (picture_file(kind="PDF"), 422),
        (picture_file((200, 150), kind="JPEG")[:400], 422),
        (picture_file((200, 150))[:-30], 422),
        (png_header(65_000, 65_000), 413),
        (png_header(2**31 - 1, 1), 413),
        (png_header(30_000, 30_000), 413),
        (png_header(30, 30), 422),
        (png_header(0, 30), 422),
        (png_header(20_000, 1), 422),
        (b"x" * 300_001, 413),
    ],
)
def test_what_is_no_fit_photograph_is_refused_in_one_line(client, content, status):
    answer = client.post("/api/photographs?name=what.png", content=content)
    assert answer.status_code == status, answer.text
    assert "\n" not in answer.json()["detail"]
    assert "Traceback" not in answer.text
    assert client.post("/api/photographs", content=picture_file()).status_code == 201


HEADS = [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"RIFF1111WEBP", b"BM", b"\0\0\0 ftypavif"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(head=st.sampled_from(HEADS), content=st.binary(max_size=600))
@example(head=b"GIF89a", content=b"\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff,\x00\x00\x00\x00\x01\x00")
def test_random_bytes_never_break_the_server(client, head, content):
    answer = client.post("/api/photographs", content=head + content)
    assert answer.status_code in (201, 413, 422)
    assert client.get("/api/start").status_code == 200


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(kind=st.sampled_from(sorted(FORMATS)), data=st.data())
def test_a_damaged_picture_never_breaks_the_server(client, kind, data):
    content = bytearray(picture_file((24, 24), kind=kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    answer = client.post("/api/photographs", content=bytes(content))
    assert answer.status_code in (201, 413, 422)


def test_what_was_uploaded_is_never_sent_back(client):
    """A picture that is a page as well: only what was decoded from it, encoded anew, goes out."""
    polyglot = picture_file(kind="GIF") + b"<script>alert(1)</script>"
    photograph = client.post("/api/photographs?name=%3Cscript%3E.gif", content=polyglot).json()
    answer = client.get(f"/api/photographs/{photograph['id']}")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.content.startswith(b"\x89PNG")
    small = client.get(f"/api/photographs/{photograph['id']}?size=16")
    assert small.headers["content-type"] == "image/jpeg"
    assert small.content.startswith(b"\xff\xd8\xff")
    assert b"script" not in answer.content + small.content


def test_the_first_frame_is_taken(client):
    photograph = client.post("/api/photographs", content=frames()).json()
    picture = Image.open(io.BytesIO(client.get(f"/api/photographs/{photograph['id']}").content))
    red, green, blue = picture.getpixel((10, 10))
    assert red > 240
    assert green < 15
    assert blue < 15


def test_the_same_bytes_are_the_same_photograph(client):
    once = client.post("/api/photographs?name=a.png", content=picture_file()).json()
    again = client.post("/api/photographs?name=b.png", content=picture_file()).json()
    assert again == once
    assert [one["id"] for one in client.get("/api/photographs").json()].count(once["id"]) == 1


BAD_IDS = [
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "../../../etc/passwd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%5c..%5c",
    "%00",
    "a" * 64 + "%00",
    "A" * 64,
    "0" * 63,
    "0" * 65,
    "0" * 10_000,
    "%ff",
    "é" * 64,
]


@pytest.mark.parametrize("bad", BAD_IDS)
def test_no_id_is_ever_a_path(client, bad):
    for path in (
        f"/api/photographs/{bad}",
        f"/api/results/{bad}",
        f"/api/jobs/{bad}",
        f"/static/{bad}",
        f"/viewer/{bad}",
        f"/api/models/small/photographs/{bad}/predictions",
        f"/api/models/{bad}/layers",
    ):
        answer = client.get(path)
        assert 400 <= answer.status_code < 500, (path, answer.status_code)
        assert "root:" not in answer.text
    assert client.get("/api/start").status_code == 200


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("cat.jpg", "cat.jpg"),
        ("C:\\photos\\cat.jpg", "cat.jpg"),
        ("../../x\0y\n.png", "xy.png"),
        ("", "photograph"),
        ("..", "photograph"),
        ("\u202egpj.exe", "gpj.exe"),
        ("a" * 500, "a" * 80),
        ("Käse 🧀.png", "Käse 🧀.png"),
    ],
)
def test_a_name_that_can_be_shown(given, name):
    assert safe_name(given) == name


def test_uploads_are_forgotten_least_recently_used_first():
    photographs, forgotten = kept(photographs_bytes=3 * 40 * 30 * 3)
    ids = [photographs.upload(picture_file(colour=(n, 0, 0)), f"{n}.png").id for n in range(3)]
    photographs.photo(ids[0])
    new = photographs.upload(picture_file(colour=(9, 9, 9)), "9.png").id
    assert forgotten == [ids[1]]
    assert [one.id for one in photographs.listed()] == [ids[0], ids[2], new]
    with pytest.raises(UnknownImage, match="upload it again"):
        photographs.photo(ids[1])


def test_the_newest_is_kept_however_large():
    photographs, _ = kept(photographs_bytes=1)
    photographs.upload(picture_file(), "a.png")
    assert photographs.photo(photographs.upload(picture_file((50, 50)), "b.png").id).picture.size == (50, 50)
    assert len(photographs.listed()) == 1


def test_files_are_opened_again_when_they_are_needed(tmp_path):
    photographs, forgotten = kept(photographs_bytes=1)
    for n in range(2):
        (tmp_path / f"{n}.png").write_bytes(picture_file(colour=(n, 0, 0)))
    ids = photographs.add_files(sorted(tmp_path.iterdir()))
    assert forgotten == [], "nothing is decoded yet"
    for one in ids:
        photographs.photo(one)
    assert forgotten == [ids[0]]
    assert photographs.photo(ids[0]).name == "0.png"
    Path(tmp_path / "1.png").unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        photographs.photo(ids[1])


def test_files_that_are_no_photographs_are_left_out(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    (tmp_path / "b.png").write_bytes(picture_file())
    photographs, _ = kept()
    with pytest.warns(DeepVizWarning, match=r"left out: a\.png"):
        assert len(photographs.add_files(sorted(tmp_path.iterdir()))) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_by_the_header_is_that_of_the_upright_image(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "JPEG", exif=exif)
    content = buffer.getvalue()
    assert size_of(content, "a.jpg", Limits()) == decoded(content, "a.jpg", Limits()).picture.size


def test_thumbnails_push_no_image_out(tmp_path):
    """Whoever scrolls through a folder keeps the maps of what is compared."""
    photographs, forgotten = kept(photographs_bytes=1)
    for n in range(3):
        Image.new("RGB", (800, 600), (n, 0, 0)).save(tmp_path / f"{n}.jpg")
    ids = photographs.add_files(sorted(tmp_path.iterdir()))
    photographs.photo(ids[0])
    for one in ids:
        thumbnail = photographs.thumbnail(one, 192)
        assert 192 <= max(thumbnail.size) <= 800
        assert abs(thumbnail.width / thumbnail.height - 800 / 600) < 0.02
    assert forgotten == []
