"""Directives that write what the catalog and the command line know, so that no page repeats it by hand.

```{method-options} grad-cam    a table of a method's options
```{method-list} gradient ...   a table of methods, linked to their pages
```{command-help} explain       the help text of a command
"""

from __future__ import annotations

import contextlib
import io
import os
from unittest import mock

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from deepviz import catalog
from deepviz.cli import run
from deepviz.methods import Method


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
        flags = f"On the command line: `--{stem}-{options[0].flag}` and so on."
        return self.parse_text_to_nodes("\n".join([*table, "", flags]))


class MethodList(SphinxDirective):
    optional_arguments = 100

    def run(self) -> list[nodes.Node]:
        stems = self.arguments or list(catalog.METHODS)
        rows = [
            f"| [{cls.title}](methods/{stem.replace('-', '_')}.md) | {catalog.summary(cls)} | {cls.cost} |"
            for stem, cls in ((stem, catalog.find(stem)) for stem in stems)
        ]
        return self.parse_text_to_nodes("\n".join(["| method | what it is | cost |", "| --- | --- | --- |", *rows]))


class CommandHelp(SphinxDirective):
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        said = io.StringIO()
        with mock.patch.dict(os.environ, {"COLUMNS": "88"}), contextlib.redirect_stdout(said):
            run([*self.arguments, "--help"])
        text = "\n".join(line.rstrip() for line in said.getvalue().splitlines())
        return [nodes.literal_block(text, text, language="text")]


def _shown(default: object) -> str:
    return repr(default) if not isinstance(default, Method) else f"{type(default).__name__}()"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("method-options", MethodOptions)
    app.add_directive("method-list", MethodList)
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
