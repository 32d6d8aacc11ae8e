"""Folders as people have them, into files, pipes and a terminal."""

import json
import os
import pty
import shutil
import signal
import subprocess
import time

import pytest
from PIL import Image

import deepviz

QUICK = ["-m", "gradient"]
SMALL = ["--model", "small_models:good", *QUICK]


@pytest.fixture
def photos(home):
    """A folder of folders, named after classes, with what else lies in folders."""
    for name, example in (
        ("tiger cat/a.png", "chelsea"),
        ("tiger cat/old/b.png", "chelsea"),
        ("espresso/a.png", "coffee"),
    ):
        path = home / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(deepviz.example_photo(example), path)
    with Image.open(deepviz.example_photo()) as picture:
        picture.resize((90, 60)).save(os.fsencode(home / "photos") + b"/espresso/caf\xe9.png")
    (home / "photos/espresso/broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (home / "photos/notes.txt").write_text("not an image")
    (home / "photos/cup.heic").write_bytes(b"not one that can be read here")
    return home


def results(home, folder="deepviz-out"):
    return sorted(path.parent.relative_to(home / folder).as_posix() for path in (home / folder).rglob("explain.json"))


def test_a_folder_of_folders_keeps_its_sub_folders_and_counts_what_it_left_out(photos):
    out, err = photos.deepviz("explain", "photos", *QUICK, code=4)
    assert results(photos) == ["espresso/a", "espresso/caf\udce9", "tiger cat/a", "tiger cat/old/b"]
    assert out.count("sheet.png") == 4
    assert "broken.jpg" in err
    assert "files skipped" in err
    assert "1 .txt" in err


def test_folders_are_the_ground_truth(photos):
    out, err = photos.deepviz(
        "evaluate", "photos", *QUICK, "--metric", "deletion(steps=2)", "--truth", "folders", "--json", code=4
    )
    assert "broken.jpg" in err
    explained = [one["target"].rsplit(" ", 2)[0] for one in json.loads(out)["images"]]
    assert sorted(explained) == ["espresso", "espresso", "tiger cat", "tiger cat"]


def test_results_belong_to_stdout_into_a_file_a_pipe_and_a_reader_that_goes_away(photos):
    photos.shell(f"deepviz explain 'photos/tiger cat' {' '.join(SMALL)} > log.txt", capture_output=True)
    assert (photos / "log.txt").read_text().count("sheet.png") == 2
    done = photos.shell(f"deepviz explain 'photos/tiger cat' {' '.join(SMALL)} -o piped | cat", capture_output=True)
    assert done.stdout.count("sheet.png") == 2
    done = photos.shell(
        f"deepviz explain 'photos/tiger cat' {' '.join(SMALL)} -o headed | head -1; echo ${{PIPESTATUS[0]}}",
        capture_output=True,
    )
    assert "Traceback" not in done.stderr
    assert (done.stdout.splitlines()[-1], results(photos, "headed")) == ("0", ["a", "old/b"])


def test_a_terminal_shows_results_and_progress_and_leaves_the_cursor(photos):
    main, side = pty.openpty()
    process = subprocess.Popen(
        photos.command("explain", "photos/tiger cat", *SMALL), stdin=side, stdout=side, stderr=side, **photos.python
    )
    os.close(side)
    seen = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        seen += part
    os.close(main)
    assert process.wait(60) == 0
    text = seen.decode()
    assert text.count("sheet.png") == 2
    assert text.rfind("\x1b[?25h") >= text.rfind("\x1b[?25l"), "the cursor is shown again"


def test_a_stop_keeps_what_is_done_and_resume_does_the_rest(photos):
    for number in range(40):
        shutil.copy(photos / "photos/espresso/a.png", photos / f"photos/espresso/{number}.png")
    (photos / "photos/espresso/broken.jpg").unlink()
    asked = ["explain", "photos", *SMALL, "--json"]
    process = photos.started(*asked)
    until = time.monotonic() + 120
    while len(results(photos)) < 4 and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    stopped = json.loads(out)
    assert stopped["interrupted"]
    assert 3 <= len(stopped["photographs"]) < 44
    before = {path: path.stat().st_mtime_ns for path in (photos / "deepviz-out").rglob("gradient.png")}
    out, err = photos.deepviz(*asked, "--resume")
    assert len(json.loads(out)["photographs"]) == 44 == len(results(photos))
    done = len(stopped["photographs"])
    assert f"{done} of 44 images are done already" in err
    assert all(path.stat().st_mtime_ns == written for path, written in list(before.items())[:done])


def test_another_question_does_not_mix_with_the_first(photos):
    cat = "photos/tiger cat/a.png"
    photos.deepviz("explain", cat, *SMALL)
    out, _ = photos.deepviz("explain", cat, *SMALL, "--target", "1")
    assert results(photos) == ["a", "a-2"]
    assert "holds results of another image or question" in out
