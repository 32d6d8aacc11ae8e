"""The house: imports point down, one stem per method, and what nobody may do."""

import ast
from pathlib import Path

import pytest

import deepviz
from deepviz import catalog

PACKAGE = Path(deepviz.__file__).parent
TESTS = Path(__file__).parent
ROOMS = (
    "errors",
    "names",
    "spelling",
    "options",
    "codec",
    "remote",
    "files",
    "geometry",
    "inputs",
    "diagnostics",
    "render",
    "probe",
    "objectives",
    "models",
    "methods",
    "metrics",
    "synthesis",
    "inside",
    "catalog",
    "results",
    "runs",
    "testing",
    "api",
    "viewer",
    "web",
    "cli",
    "__main__",
)
"""The rooms from the ground up: each imports only those before it."""

FILES = sorted(path for path in PACKAGE.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): ast.parse(path.read_text()) for path in FILES}


def running(node):
    """The parts of a module that run; not those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from running(child)


def imported(tree):
    """The modules of this package that a module imports when it runs."""
    for node in running(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            if (node.module or "").split(".")[0] == "deepviz":
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "deepviz")


IMPORTS = {name: set(imported(tree)) - {name} for name, tree in MODULES.items()}


def room(module):
    """The package or module just below deepviz that it is in; "" for deepviz itself."""
    return module.split(".")[1] if "." in module else ""


def test_every_room_has_its_floor():
    assert {room(name) for name in MODULES} - {""} <= set(ROOMS)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "deepviz"])
def test_imports_point_down(module):
    for other in IMPORTS[module]:
        here, there = room(module), room(other)
        if there not in (here, ""):
            assert ROOMS.index(there) < ROOMS.index(here), f"{module} imports {other}, which is above it"


def test_no_cycles():
    done, under_way = set(), []

    def visit(module):
        assert module not in under_way, " -> ".join([*under_way[under_way.index(module) :], module])
        if module in done:
            return
        under_way.append(module)
        for other in IMPORTS[module] - {"deepviz"}:
            # a package's own front door lists what is inside
            if not module.startswith(f"{other}."):
                visit(other)
        under_way.pop()
        done.add(module)

    for module in MODULES:
        if module != "deepviz":
            visit(module)


def test_deepviz_itself_defines_nothing():
    names = [node.name for node in MODULES["deepviz"].body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert names == ["__getattr__", "__dir__"]


def test_a_function_lives_with_its_question():
    stems = {part for name in MODULES for part in name.split(".")}
    assert not stems & {"utils", "util", "common", "helpers", "helper", "core", "misc", "base", "tools"}


@pytest.mark.parametrize("stem", catalog.METHODS)
def test_one_stem_per_method(stem):
    file = stem.replace("-", "_")
    assert catalog.METHODS[stem].__module__.split(".")[:2] == ["deepviz", "methods"]
    assert catalog.METHODS[stem].__module__.endswith(f".{file}")
    assert catalog.METHODS[stem].__name__.lower() == file.replace("_", "")
    assert (TESTS / "methods" / f"test_{file}.py").is_file()


def calls(tree):
    """The names of everything that is called, "print", "torch.manual_seed", ".eval"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


ALLOWED = {
    ("deepviz.testing", "mode"): "methods are tried on a network that training has just left",
    ("deepviz.models.load", "mode"): "models that are built there are put in eval mode",
    ("deepviz.runs.workers", "pickle"): "a worker process reads what the process that started it has packed",
    ("deepviz.probe.capture", "switch"): "gradients start at a layer, within one call; a test sees the mode restored",
}


@pytest.mark.parametrize("module", MODULES)
def test_what_nobody_may_do(module):
    for called, line in calls(MODULES[module]):
        where = f"{module}, line {line}"
        assert called not in ("torch.manual_seed", "random.seed", "np.random.seed"), f"{where} seeds for everybody"
        if called in ("torch.set_grad_enabled", "torch.set_default_dtype", "torch.use_deterministic_algorithms"):
            assert (module, "switch") in ALLOWED, f"{where} sets a global switch"
        if called.endswith((".eval", ".train")):
            assert (module, "mode") in ALLOWED, f"{where} changes a model's mode"
        if called == "print":
            assert room(module) == "cli", f"{where} prints"
        if called.endswith("torch.load"):
            source = ast.unparse(MODULES[module])
            assert source.count("torch.load(") == source.count("weights_only=True"), f"{where} loads what may run code"
        assert called not in ("eval", "exec", "os.system"), f"{where} runs code"
        if called in ("pickle.load", "pickle.loads"):
            assert (module, "pickle") in ALLOWED, f"{where} runs code"


def test_every_source_has_its_licence_to_be_here():
    """No file is left that nothing imports."""
    front = {node.module for node in ast.walk(MODULES["deepviz"]) if isinstance(node, ast.ImportFrom)}
    used = front.union(*IMPORTS.values())
    strings = {node.value.split(":")[0] for tree in MODULES.values() for node in ast.walk(tree)
               if isinstance(node, ast.Constant) and isinstance(node.value, str)}  # fmt: skip
    for module in MODULES:
        packages = {name.rpartition(".")[0] for name in used}
        assert module in used | strings | packages | {"deepviz", "deepviz.__main__", "deepviz.testing"}, (
            f"nothing imports {module}"
        )
