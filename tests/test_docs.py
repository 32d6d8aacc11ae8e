"""The documentation says what is there: pages for methods, examples that run, commands and names that exist."""

import importlib
import pkgutil
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

import deepviz
from deepviz import catalog
from deepviz.cli import run
from deepviz.testing import check_method

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
METHOD_FLAGS = {f"--{stem}-{option.flag}" for stem, cls in catalog.METHODS.items() for option in catalog.options(cls)}
CHAPTERS = ["Idea", "Formula", "Picture", "Pitfalls", "Reference", "Function"]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    lines = "".join(blocks(text, "console")).splitlines()
    return [shlex.split(line.removeprefix("$"), comments=True) for line in lines if line.startswith("$")]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("stem", catalog.METHODS)
def test_every_method_has_its_page_with_all_chapters_and_its_options(stem):
    text = page(f"methods/{stem.replace('-', '_')}.md")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == CHAPTERS
    assert f"```{{method-options}} {stem}\n" in text
    assert re.search(r"(?:arXiv:|doi:|doi\.org/)(\S+)", catalog.METHODS[stem].paper)[1] in text


def test_the_insights_list_every_method_once():
    told = set(re.findall(r"^```\{method-family\} (.*)$", page("insights.md"), re.MULTILINE))
    assert {catalog.family(cls) for cls in catalog.METHODS.values()} <= told


def test_every_metric_has_a_reference_a_direction_and_a_price():
    for cls in catalog.METRICS.values():
        assert cls.title
        assert cls.cost
        assert re.search(r"\(?\d{4}", cls.paper), cls
        assert "Pitfall" in cls.__doc__
        assert f"{cls.better.capitalize()} is better" in cls.__doc__ or "Example" in cls.__doc__


@pytest.mark.parametrize(
    "example",
    [*blocks(README, "python"), *blocks(page("index.md"), "python")],
    ids=lambda text: text.splitlines()[-1][:40],
)
def test_the_readmes_examples_run_as_they_stand(example, tmp_path, monkeypatch):
    (tmp_path / "src").symlink_to(ROOT / "src", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(example, "README.md", "exec"), {})


def test_the_readme_says_what_the_bundled_model_sees(tmp_path):
    explanations = deepviz.viz_gradcam(None, ROOT / "src/deepviz/photos/chelsea.png", top_k=2)
    assert f"# {explanations[0].target} and {explanations[1].target}" in README


@pytest.mark.parametrize(
    "source",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/quickstart.md",
        "docs/command_line.md",
        "docs/runs.md",
        "docs/find_shortcuts.md",
        "docs/your_model.md",
    ],
)
def test_every_command_exists_with_its_flags(source, capsys):
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    found = commands((ROOT / source).read_text(encoding="utf-8"))
    assert found
    for program, *arguments in found:
        if program == "make":
            assert set(arguments) <= set(targets)
        elif program == "deepviz":
            assert run([arguments[0], "--help"]) == 0
            told = capsys.readouterr().out
            flags = [word for word in arguments if word.startswith("-")]
            assert [flag for flag in flags if flag not in METHOD_FLAGS and flag not in told] == []
        else:
            assert program == "pip"
            extras = re.findall(r"\[(.*?)\]", " ".join(arguments))
            assert all(f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text() for extra in extras)


def test_every_command_of_the_program_is_in_the_readme():
    assert all(f"deepviz {name}" in README for name in ("explain", "evaluate", "sanity", "methods", "layers", "doctor"))


def value_of(name):
    """The object of a dotted name."""
    module, _, attribute = name.rpartition(".")
    # the attribute first: deepviz.synthesis.inversion is the function, not the module that it is in
    return getattr(value_of(module), attribute, None) or importlib.import_module(name) if module else deepviz


def documented():
    """All that the reference pages have an entry for."""
    text = page("api.md") + page("metrics.md")
    named = re.findall(r"^\.\. (?:auto(?:function|class|data|exception)|py:data):: (\S+)$", text, re.MULTILINE)
    testing = re.search(r"automodule:: deepviz.testing\n   :members: (.*)$", text, re.MULTILINE)[1].split(", ")
    classes = {"methods": catalog.METHODS, "metrics": catalog.METRICS}
    listed = [cls for kind, found in classes.items() if f"```{{{kind[:-1]}-classes}}" in text for cls in found.values()]
    return [*map(value_of, named), *listed, *(getattr(deepviz.testing, name) for name in testing)]


INDEXED = re.search(r"^```\{api-index\}\n(.*?)^```", page("api.md"), re.MULTILINE | re.DOTALL)[1].split()
INTERNAL = {"deepviz.render", "deepviz.viewer"}
"""Packages with an `__all__` for the other packages; what is public of them is in `deepviz`."""


def test_the_api_index_has_all_public_modules():
    modules = {f"deepviz.{found.name}" for found in pkgutil.iter_modules(deepviz.__path__)} | {"deepviz"}
    public = {name for name in modules if hasattr(importlib.import_module(name), "__all__")}
    assert public - INTERNAL == set(INDEXED)


@pytest.mark.parametrize("module", INDEXED)
def test_every_public_name_has_an_entry_in_the_api(module):
    entries = documented()
    names = importlib.import_module(module).__all__
    found = {name: value_of(f"{module}.{name}") for name in names}
    missing = [name for name, value in found.items() if not any(value is entry for entry in entries)]
    assert [name for name in missing if f"{module}.{name}" not in INDEXED] == []


def test_the_gallery_has_the_code_of_each_of_its_small_pictures(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    made = [function.__name__ for function in importlib.import_module("gallery").ALL]
    assert re.findall(r"^:pyobject: (.*)$", page("gallery.md"), re.MULTILINE) == made
    pictures = list((ROOT / "docs/_static/gallery").iterdir())
    assert {path.stem for path in pictures} == set(made)
    assert all(page("gallery.md").count(f"(_static/gallery/{path.name})") == 2 for path in pictures)
    assert max(path.stat().st_size for path in pictures) < 200_000


def test_links_between_the_files_lead_somewhere():
    files = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs/methods").glob("*"),
    ]
    broken = [
        f"{file.relative_to(ROOT)}: {link}"
        for file in files
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text(encoding="utf-8"))
        if not (file.parent / link).exists()
    ]
    assert broken == []


def test_the_worked_example_is_exact_on_a_linear_model(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    monkeypatch.delitem(sys.modules, "covered_patches", raising=False)
    covered = catalog.find("covered_patches:CoveredPatches")(patch=4)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 12, 5)).double()
    x = torch.rand(2, 3, 8, 12, dtype=torch.float64)
    falls = covered(model, x, target=torch.tensor([[1, 4], [0, 2]]))
    assert falls.shape == (2, 2, 1, 2, 3)
    check_method(catalog.find("covered_patches:CoveredPatches")(patch=5))
    change = model(x) - model(0 * x)
    torch.testing.assert_close(falls.sum((-3, -2, -1)), change.gather(1, torch.tensor([[1, 4], [0, 2]])))


def test_stored_outputs_of_the_pages_are_outdated_by_any_change_of_the_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    executed = importlib.import_module("executed")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "one.py").write_text("a = 1")
    before = executed.outputs_key(tmp_path)
    assert executed.outputs_key(tmp_path) == before
    (tmp_path / "package" / "one.py").write_text("a = 2")
    changed = executed.outputs_key(tmp_path)
    (tmp_path / "package" / "one.py").rename(tmp_path / "package" / "two.py")
    assert len({before, changed, executed.outputs_key(tmp_path)}) == 3


WORDS = (
    r"speaks? (?:for|against)|in silence|foretells?|likeness|normal law|shaken|strangers?|believed?|nobody|never was|"
    r"no praise|of its own accord|wants to (?:see|be)|(?:knows?|tells?) nothing|what no map"
)
"""Personification and poetry, for which the field has terms: evidence for, silently, predicts, similarity, accepted."""


def test_the_words_of_the_docs_and_the_code_are_the_fields():
    pages = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
    folders = ((ROOT / "docs", "*.md"), (ROOT / "src", "*.py"), (ROOT / "docs", "*.py"))
    pages += [path for folder, kind in folders for path in folder.rglob(kind) if "_build" not in path.parts]
    found = {
        f"{path.relative_to(ROOT)}:{number}: {word[0]}"
        for path in pages
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for word in re.finditer(rf"\b(?:{WORDS})\b", line, re.IGNORECASE)
    }
    assert found == set()


def _written(magic):
    """What IPython's %%writefile does, as Python."""
    return f"__import__('pathlib').Path({magic[1]!r}).write_text({magic[2]!r})\n"


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
@pytest.mark.parametrize("name", ["how_it_works.md", "runs.md", "segmenters.md", "your_model.md"])
def test_the_examples_of_a_page_run(name, monkeypatch):
    if name == "runs.md":
        pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")
    monkeypatch.chdir(ROOT / "docs")
    cells = [re.sub(r"^:.*\n", "", cell) for cell in blocks(page(name), r"\{code-cell\} ipython3")]
    cells = [re.sub(r"^%%writefile (\S+)\n(.*)", _written, cell, flags=re.DOTALL) for cell in cells]
    assert cells
    exec(compile("\n".join(cells), name, "exec"), {})
