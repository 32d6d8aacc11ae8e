"""The process around a command: streams that are closed or narrow, signals, and progress without a terminal."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepviz.cli import progress
from processes import CODE, in_a_process, in_environment, started, stopped_after

QUICK = ["--model", "small_models:good", "-m", "gradient"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("cat.png")
    return tmp_path


@pytest.mark.parametrize("arguments", [["--help"], ["explain", "-m", "grad-cat"], ["explain", "--method", "Grad"]])
def test_help_and_a_mistyped_method_do_not_wait_for_torch(here, arguments):
    code = "import sys; from deepviz.cli import run; code = run(sys.argv[1:]); print('torch' in sys.modules, code)"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=in_environment({}), capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == ("False 0" if arguments == ["--help"] else "False 2")
    assert ("did you mean" in done.stderr) is (arguments != ["--help"])


@pytest.mark.parametrize("columns", ["1", "2"])
@pytest.mark.parametrize("command", ["explain", "doctor"])
def test_help_on_a_terminal_that_is_too_narrow_for_it(here, command, columns):
    done = in_a_process(command, "--help", capture_output=True, env={"COLUMNS": columns})
    assert done.returncode == 0
    shown = done.stdout.decode()
    assert max(map(len, shown.splitlines())) == 30
    assert "…" not in shown  # no option is cut off


def test_names_that_are_read_without_torch_are_those_of_the_catalog(here):
    code = (
        "import deepviz.cli as cli\n"
        "try: cli._check_methods(['-m', 'q'])\n"
        "except cli.UsageError as error: print(error)\n"
        "from deepviz import catalog\n"
        "print(f\"no method 'q'; there are {', '.join(catalog.METHODS)}\")\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=in_environment({}), capture_output=True, text=True, check=True
    )
    early, late = done.stdout.splitlines()
    assert sorted(re.findall(r"[a-z-]+-?[a-z]+", early)) == sorted(re.findall(r"[a-z-]+-?[a-z]+", late))


def test_closed_streams(here):
    closing = "import os; os.close(1); os.close(2); os.execv(__import__('sys').executable, __import__('sys').argv[1:])"
    command = [sys.executable, "-c", closing, sys.executable, "-c", CODE, "explain", "cat.png", *QUICK]
    assert subprocess.run(command, env=in_environment({}), check=False).returncode == 0
    with Image.open("deepviz-out/cat/gradient.png") as drawn:  # nothing else was written to the same descriptor
        drawn.load()


def test_names_that_are_not_utf_8_and_narrow_streams(here):
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy("cat.png", name)
    shutil.copy("cat.png", "猫.png")
    done = in_a_process(
        "explain", name, "猫.png", *QUICK, "--html", "page.html", capture_output=True,
        env={"PYTHONIOENCODING": "cp1252", "HOME": None, "NO_COLOR": "1", "COLUMNS": "5"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b".png: ") == 2
    assert b"\\u732b.png: " in done.stdout
    assert "猫.png" in (here / "page.html").read_text(encoding="utf-8")


def test_a_reader_that_goes_away_ends_the_lines_and_not_the_work(here):
    for number in range(3):
        shutil.copy("cat.png", f"{number}.png")
    reader, writer = os.pipe()
    os.close(reader)
    for both in (False, True):
        streams = {"stdout": writer, "stderr": writer if both else subprocess.PIPE}
        done = in_a_process("explain", "0.png", "1.png", "2.png", *QUICK, "-o", f"out{both}", **streams, text=True)
        assert (done.returncode, done.stderr) == (0, None if both else "")
        assert len(list(Path(f"out{both}").rglob("sheet.png"))) == 3
    os.close(writer)


def test_a_full_disk_is_no_bug(here):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    with full.open("w") as stream:
        done = in_a_process("methods", stdout=stream, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 3
    assert done.stderr.startswith("deepviz: cannot write the results: No space left")
    assert done.stderr.count("\n") == 1


def on_a_terminal(*arguments, stdout=None):
    """A command whose stderr, and stdout if it is not given, is a terminal: its exit code and what is shown there."""
    pty = pytest.importorskip("pty")
    main_end, terminal = pty.openpty()
    shown = bytearray()

    def read():
        try:
            while part := os.read(main_end, 10_000):
                shown.extend(part)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    done = in_a_process(*arguments, stdout=stdout or terminal, stderr=terminal, env={"TERM": "xterm", "COLUMNS": "40"})
    os.close(terminal)
    reader.join(timeout=30)
    os.close(main_end)
    return done.returncode, shown.decode()


def test_results_go_to_stdout_when_only_stderr_is_a_terminal(here):
    with open("log.txt", "wb") as log:
        code, shown = on_a_terminal("explain", "cat.png", *QUICK, stdout=log)
    assert code == 0
    lines = (here / "log.txt").read_text().splitlines()
    assert lines[0].startswith("cat.png: ")
    assert lines[1] == "  deepviz-out/cat/sheet.png and 1 map beside it"
    assert "cat.png: " not in shown


def test_results_on_a_narrow_terminal_are_not_folded(here):
    code, shown = on_a_terminal("explain", "cat.png", *QUICK, "-o", "a-folder-with-a-name-longer-than-the-terminal")
    assert code == 0
    assert "  a-folder-with-a-name-longer-than-the-terminal/cat/sheet.png and 1 map beside it\r\n" in shown


def test_without_a_terminal_there_is_a_plain_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(progress, "INTERVAL", 0.02)
    with progress.progress_bar() as bar:
        bar.show("Gradient", 3, 10)
        time.sleep(0.2)
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "deepviz: 3 of 10 maps after 0 s (Gradient)"
    monkeypatch.setattr(progress, "INTERVAL", 30.0)
    with progress.progress_bar() as bar:
        bar.show("Gradient", 3, 10)
    assert capsys.readouterr().err == ""


def test_sub_folders_are_kept_and_each_bad_file_costs_only_itself(here):
    (here / "photos/a/b.jpg").mkdir(parents=True)  # a folder with the ending of an image
    for name in ("photos/1.png", "photos/a/1.png", "photos/a/b.jpg/1.png", "photos/a/...png"):
        shutil.copy("cat.png", name)
    (here / "photos/notes.txt").write_text("")
    done = in_a_process(
        "explain",
        "photos",
        "https://a.org/1.png",
        "photos/a/...png",
        *QUICK,
        "-o",
        "out",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4
    assert done.stderr.splitlines() == [
        "deepviz: https://a.org/1.png is a URL: download it first, and give the file",
        "deepviz: 1 file skipped: 1 .txt",
        "deepviz: 1 of 5 images failed",
    ]
    sheets = sorted(str(path.relative_to(here)) for path in here.rglob("sheet.png"))
    assert sheets == ["out/1/sheet.png", "out/a/1/sheet.png", "out/a/b.jpg/1/sheet.png", "out/image/sheet.png"]


def test_a_process_that_is_told_to_end_keeps_what_is_done(here):
    for number in range(40):
        shutil.copy("cat.png", f"{number:02}.png")
    names = [f"{number:02}.png" for number in range(40)]
    slow = ["-m", "smooth-grad(samples=100)", "--model", "small_models:good"]
    process = started("explain", *names, *slow, "--json", "--html", "page.html")
    code, out, err = stopped_after(process, "deepviz-out/05/explain.json")
    assert code == 130
    found = json.loads(out)
    assert found["interrupted"] is True
    done = [entry["photograph"] for entry in found["photographs"]]
    assert done == names[: len(done)]
    assert 0 < len(done) < 40
    told = [line for line in err.splitlines() if " after " not in line]  # on a slow machine also how far it is
    assert told == [f"deepviz: interrupted: {len(done)} of 40 images are in deepviz-out"]
    assert (here / "page.html").exists()
    assert not list(here.rglob("*.part"))


def test_ctrl_c_in_the_middle_of_a_map_keeps_what_it_is_so_far(here):
    """Methods and images after it are not begun; the folder holds what went through the model together."""
    names = [f"{number}.png" for number in range(9)]
    for name in names:
        shutil.copy("cat.png", name)
    (here / "mine.py").write_text(
        "from pathlib import Path\nfrom small_models import good\n"
        "def watched():\n"
        "    loaded = good()\n"
        "    passes = []\n"
        "    def seen(*_):\n"
        "        passes.append(1)\n"
        "        if len(passes) == 100:\n"
        "            Path('under-way').touch()\n"
        "    loaded.module.register_forward_hook(seen)\n"
        "    return loaded\n"
    )
    methods = ["-m", "rise(max_passes=1000000)", "-m", "guided-backprop"]
    process = started("explain", *names, *methods, "--model", "mine:watched", "--json", "--format", "npz")
    code, out, err = stopped_after(process, here / "under-way")
    assert code == 130, err
    found = json.loads(out)
    assert found["interrupted"] is True
    assert [entry["photograph"] for entry in found["photographs"]] == names[:8]
    for entry in found["photographs"]:
        (rise,) = entry["explanations"]
        passes = rise["notes"]["forward passes"]
        assert 64 <= passes < 1_000_000
        assert rise["notes"]["interrupted"].endswith("forward passes of at most 1000000")
        assert entry["left_out"] == {"Guided backprop": "the work was interrupted before it began"}
        with np.load(rise["file"]) as stored:
            assert np.isfinite(stored["attribution"]).all()
            assert stored["standard_error"].shape == stored["attribution"].shape
    told = [line for line in err.splitlines() if " after " not in line]
    assert told == ["deepviz: interrupted: 8 of 9 images are in deepviz-out"]


def test_two_runs_at_once_share_a_folder(here):
    for folder in ("one", "two"):
        (here / folder).mkdir()
        for number in range(3):
            shutil.copy("cat.png", f"{folder}/{number}.png")
    processes = [started("explain", folder, *QUICK) for folder in ("one", "two")]
    for process in processes:
        _, err = process.communicate(timeout=90)
        assert (process.returncode, err) == (0, "")
    records = [json.loads(path.read_text()) for path in here.glob("deepviz-out/*/explain.json")]
    assert len({record["image"] for record in records}) == len(records) == 6
    assert all(Path(file["file"]).exists() for record in records for file in record["results"]["explanations"])


def test_warnings_of_a_model_are_one_line_each(here):
    (here / "mine.py").write_text(
        "import warnings\nfrom small_models import good\n"
        "def loud():\n    warnings.warn('first line\\nsecond line')\n    return good()\n"
    )
    done = in_a_process("explain", "cat.png", "--model", "mine:loud", "-m", "gradient", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "deepviz: note: first line second line\n")
