"""Directives that write what the catalog and the command line know, so that no page repeats it by hand.

```{method-options} grad-cam    a table of a method's options
```{method-formula} layer-cam   what its docstring says it computes
```{method-part} fem Pitfall    another part of it
```{method-function} layer-cam  how it is called
```{method-list}                a table of all methods, linked to their pages
```{method-family} layer        a table of those of one family, and their pages in the table of contents
```{method-classes}             their docstrings
```{metric-list}                a table of all metrics
```{metric-classes}             their docstrings
```{command-help} explain       the help text of a command
```{api-index}                  a table of the public names of the modules in its lines, linked to their entries
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import math
import os
import re
import sys
import types
from collections.abc import Iterable
from unittest import mock

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from deepviz import catalog
from deepviz.cli import run
from deepviz.methods import Method
from deepviz.metrics import Metric


class MethodOptions(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        stem = self.arguments[0]
        options = catalog.options(catalog.find(stem))
        if not options:
            return self.parse_text_to_nodes(f"`{stem}` has no options.")
        rows = [
            f"| `{option.name}` | `{_shown(option.default)}` | {option.takes} | {option.help} |" for option in options
        ]
        table = ["| option | default | takes | |", "| --- | --- | --- | --- |", *rows]
        written = f"-m '{stem}({options[0].name}=...)'"
        if catalog.find(stem).in_default_set:
            written = f"--{stem}-{options[0].flag}"
        flags = f"On the command line: `{written}` and so on."
        return self.parse_text_to_nodes("\n".join([*table, "", flags]))


class MethodFormula(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        return _as_rst(self, _docstring(self.arguments[0])[0])


class MethodPart(SphinxDirective):
    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        stem, part = self.arguments
        text = _docstring(stem)[1][part]
        return _as_rst(self, text if text.startswith("x ") else text[:1].upper() + text[1:])


class MethodFunction(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        stem = self.arguments[0]
        cls = catalog.METHODS[stem].__name__
        return self.parse_text_to_nodes(
            f"On tensors: {{py:class}}`deepviz.methods.{cls}`. On images: "
            f"`deepviz.explain(model, image, deepviz.methods.{cls}())`. On the command line: "
            f"`deepviz explain -m {stem}`."
        )


def _docstring(stem: str) -> tuple[str, dict[str, str]]:
    """A method's docstring: what comes before its parts, and the parts by their names."""
    text = inspect.getdoc(catalog.METHODS[stem]) or ""
    start, *parts = re.split(r"^(Shapes|Errors|Pitfall|Reference|Example):", text, flags=re.MULTILINE)
    return start.strip(), {name: inspect.cleandoc(part) for name, part in zip(parts[::2], parts[1::2], strict=True)}


def _as_rst(directive: SphinxDirective, text: str) -> list[nodes.Node]:
    """A docstring's text: its indented formulas as they are, `names` as code."""
    parts = ("::\n\n" + part if part.startswith("    ") else _as_code(part) for part in text.split("\n\n"))
    body = "\n\n".join(parts)
    return directive.parse_text_to_nodes(f"```{{eval-rst}}\n{body}\n```")


def _as_code(text: str) -> str:
    # a | would begin a substitution
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(f"`{part}`" if part.startswith("`") else part.replace("|", r"\|") for part in parts)


class MethodList(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(_methods(catalog.METHODS)))


class MethodFamily(SphinxDirective):
    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        stems = [stem for stem, cls in catalog.METHODS.items() if catalog.family(cls) == self.arguments[0]]
        pages = [f"methods/{stem.replace('-', '_')}" for stem in stems]
        contents = [
            "```{toctree}",
            ":maxdepth: 1",
            ":hidden:",
            f":caption: {' '.join(self.content)}",
            "",
            *pages,
            "```",
        ]
        return self.parse_text_to_nodes("\n".join([*_methods(stems), "", *contents]))


def _methods(stems: Iterable[str]) -> list[str]:
    found = [(stem, catalog.METHODS[stem]) for stem in stems]
    rows = [
        f"| [{cls.title}](methods/{stem.replace('-', '_')}.md) | {catalog.summary(cls)} | {cls.cost} |"
        for stem, cls in found
    ]
    return ["| method | what it is | cost |", "| --- | --- | --- |", *rows]


class MetricList(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        rows = [
            f"| `{stem}` | {catalog.summary(cls)} | {_direction(cls)} | {cls.judges} | {cls.cost} | {cls.paper} |"
            for stem, cls in catalog.METRICS.items()
        ]
        head = ["| metric | what it is | better | judges a | cost | paper |", "| --- | --- | --- | --- | --- | --- |"]
        return self.parse_text_to_nodes("\n".join([*head, *rows]))


class MethodClasses(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(_classes("methods", catalog.METHODS.values()))


class MetricClasses(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(_classes("metrics", catalog.METRICS.values()))


def _classes(package: str, found: Iterable[type]) -> str:
    classes = "\n".join(f".. autoclass:: deepviz.{package}.{cls.__name__}" for cls in found)
    return f"```{{eval-rst}}\n{classes}\n```"


class CommandHelp(SphinxDirective):
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        said = io.StringIO()
        with mock.patch.dict(os.environ, {"COLUMNS": "88"}), contextlib.redirect_stdout(said):
            run([*self.arguments, "--help"])
        text = "\n".join(line.rstrip() for line in said.getvalue().splitlines())
        return [nodes.literal_block(text, text, language="text")]


class ApiIndex(SphinxDirective):
    has_content = True

    def run(self) -> list[nodes.Node]:
        listed: list[object] = []
        lines: list[str] = []
        for name in self.content:
            module = importlib.import_module(name)
            values = [(public, getattr(module, public)) for public in module.__all__]
            new = [one for one in values if not isinstance(one[1], types.ModuleType) and _is_new(one[1], listed)]
            listed += [value for _, value in new]
            rows = [f"| {{py:obj}}`~{name}.{public}` | {_first_sentence(module, public)} |" for public, _ in new]
            lines += [f"**`{name}`**: {_escaped(inspect.getdoc(module).splitlines()[0])}", ""]
            lines += ["| name | what it is |", "| --- | --- |", *rows, ""]
        return self.parse_text_to_nodes("\n".join(lines))


def _is_new(value: object, listed: list[object]) -> bool:
    return not any(value is one for one in listed)


def _first_sentence(module: types.ModuleType, name: str) -> str:
    """From the docstring; of a constant, which has none at run time, from the module's source."""
    value = getattr(module, name)
    documented = inspect.isroutine(value) or isinstance(value, type)
    lines = inspect.getdoc(value).splitlines() if documented else _constants(module).get(name, [""])
    return _escaped(" ".join("\n".join(lines).split("\n\n")[0].split()))


def _constants(module: types.ModuleType) -> dict[str, list[str]]:
    """What is written below each, also in the modules of a package."""
    names = [module.__name__, *(one for one in sys.modules if one.startswith(f"{module.__name__}."))]
    found = [ModuleAnalyzer.for_module(name).find_attr_docs() for name in names]
    return {name: lines for docs in found for (of, name), lines in docs.items() if not of}


def _escaped(text: str) -> str:
    """As MyST text, in a cell of a table."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"[*|<_]", r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts).replace("|", "\\|") if "|" in "".join(parts[1::2]) else "`".join(parts)


def _shown(default: object) -> str:
    return repr(default) if not isinstance(default, Method) else f"{type(default).__name__}()"


def _direction(cls: type[Metric]) -> str:
    low, high = cls.range
    reach = "" if low == -math.inf and high == math.inf else f", {low:g} to {high:g}".replace("inf", "∞")
    return f"{cls.better}{reach}"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("method-options", MethodOptions)
    app.add_directive("method-formula", MethodFormula)
    app.add_directive("method-part", MethodPart)
    app.add_directive("method-function", MethodFunction)
    app.add_directive("method-list", MethodList)
    app.add_directive("method-family", MethodFamily)
    app.add_directive("method-classes", MethodClasses)
    app.add_directive("metric-list", MetricList)
    app.add_directive("metric-classes", MetricClasses)
    app.add_directive("command-help", CommandHelp)
    app.add_directive("api-index", ApiIndex)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
