"""The page's modules as a developer checks them: types by tsc, units by node. Users need neither."""

import shutil
import subprocess
from pathlib import Path

import pytest

from deepviz.web.files import page_files

HERE = Path(__file__).parent / "javascript"
INSTALL = "npm install --prefix tests/web/javascript"


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    """The modules where the server has them, with the units beside them."""
    folder = tmp_path_factory.mktemp("page")
    for name, content in page_files().items():
        if name.endswith(".js"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    (folder / "test").mkdir()
    for unit in HERE.glob("*.test.js"):
        shutil.copy(unit, folder / "test")
    for name in ("package.json", "tsconfig.json"):
        shutil.copy(HERE / name, folder)
    return folder


def ran(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_units_pass(laid_out):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the units of the page's modules did not run")
    version = int(ran([node, "--version"], laid_out).strip().lstrip("v").partition(".")[0])
    if version < 20:
        pytest.skip(f"node {version} has no test runner that is stable: the units need node 20 or newer")
    units = sorted(str(one.relative_to(laid_out)) for one in (laid_out / "test").glob("*.test.js"))
    assert "# fail 0" in ran([node, "--test", "--test-reporter=tap", *units], laid_out)


def test_the_types_hold(laid_out):
    own = HERE / "node_modules" / ".bin" / "tsc"
    tsc = str(own) if own.exists() else shutil.which("tsc")
    if tsc is None or shutil.which("node") is None:
        pytest.skip(f"TypeScript is not installed: {INSTALL}")
    ran([tsc, "--project", "."], laid_out)
