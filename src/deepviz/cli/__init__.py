"""The commands.

Each is a function in a module of this package, imported when it is called.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 a bug, 2 usage, 3 input or model cannot be
loaded, 4 done but some inputs failed, 130 interrupted, by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from cyclopts import App, CycloptsError
from rich.console import Console

from deepviz.cli.process import abandon_streams, prepare
from deepviz.errors import DeepVizError
from deepviz.names import nearest

OK, BUG, USAGE, INPUT, PARTLY, INTERRUPTED = 0, 1, 2, 3, 4, 130


NARROWEST = 30
"""Columns that help is laid out for at least: below 30 options are cut off, with 1 or 2 cyclopts never ends."""


class UsageError(DeepVizError):
    """A command line that cannot be understood."""

    exit_code = USAGE


def application() -> App:
    """The commands, each imported when it is called, so that `deepviz --help` starts without torch."""
    app = App(
        name="deepviz",
        help="Explain the predictions of vision networks.",
        version=_version,
        help_format="plaintext",
        console=Console(width=max(Console().width, NARROWEST)),
        suppress_keyboard_interrupt=False,  # `run` reports what was done until then
    )
    app.command(
        "deepviz.cli.explain:explain",
        name="explain",
        help="Explain a model's predictions for images.",
        help_epilogue=(
            "PHOTOS are files or folders; without any, the bundled example image is explained. "
            "The model is the bundled EfficientNet-Lite0 unless --model names another."
        ),
    )
    app.command("deepviz.cli.evaluate:evaluate", name="evaluate", help="Measure how faithful the methods' maps are.")
    app.command(
        "deepviz.cli.sanity:sanity", name="sanity", help="Check whether maps depend on what the network has learned."
    )
    app.command("deepviz.cli.dataset_run:run", name="run", help="Explain a data set of any size, shard by shard.")
    app.command("deepviz.cli.run_diff:diff", name="diff", help="Compare the maps of two runs, image by image.")
    app.command(
        "deepviz.cli.run_clusters:clusters", name="clusters", help="Find groups of maps in a run that look alike."
    )
    app.command("deepviz.cli.listings:methods", name="methods", help="List the methods and their options.")
    app.command("deepviz.cli.listings:objectives", name="objectives", help="List what --target can ask of a model.")
    app.command("deepviz.cli.listings:layers", name="layers", help="List a model's layers and what can be explained.")
    app.command("deepviz.cli.generate:generate", name="generate", help="Generate feature visualisations.")
    app.command("deepviz.cli.generate:dream", name="dream", help="DeepDream: amplify a layer's activations.")
    app.command("deepviz.cli.inside:activations", name="activations", help="Show a layer's feature maps for an image.")
    app.command(
        "deepviz.cli.inside:attention", name="attention", help="Show what a transformer's patches and tokens attend to."
    )
    app.command(
        "deepviz.cli.inside:channels",
        name="channels",
        help="Visualise a layer's channels: generated images and most activating patches.",
    )
    app.command("deepviz.cli.inside:filters", name="filters", help="Show first-layer filters.")
    app.command("deepviz.cli.serve:serve", name="serve", help="Compare methods and classes in a browser.")
    app.command("deepviz.cli.report:report", name="report", help="Build a standalone HTML report from stored results.")
    app.command(
        "deepviz.cli.doctor:doctor", name="doctor", help="Report what is installed, or what is understood of a model."
    )
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    prepare()
    sys.path.append("")  # for --model package.module:factory; last, so that no file here can pose as a library
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; every error is one line on stderr, and the exit code."""
    try:
        code = _run(arguments)
        sys.stdout.flush()  # a closed pipe is handled here; at interpreter exit it would print a traceback
    except BrokenPipeError:  # the reader closed the pipe: `deepviz methods | head`
        code = OK
    except OSError as error:  # of stdout, such as a full disk
        code = _fail(f"cannot write the results: {error.strerror or error}", INPUT)
    abandon_streams()
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        _check_methods(arguments)
        result = application()(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
        return result if isinstance(result, int) else OK
    except CycloptsError as error:
        return _fail(str(error), USAGE)
    except DeepVizError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt as error:
        return _fail(str(error) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        raise
    except OSError as error:
        if os.environ.get("DEEPVIZ_DEBUG"):
            raise
        return _fail(f"{error.filename or 'cannot write the results'}: {error.strerror or error}", INPUT)
    except Exception as error:
        if os.environ.get("DEEPVIZ_DEBUG"):
            raise
        return _fail(
            f"this is a bug, please report it: {type(error).__name__}: {error} (DEEPVIZ_DEBUG=1 shows more)", BUG
        )


def _fail(message: str, code: int) -> int:
    print("deepviz:", " ".join(message.split()), file=sys.stderr)
    return code


def _check_methods(arguments: Sequence[str]) -> None:
    """Refuse a mistyped method before torch is imported, which takes seconds.

    Raises:
        UsageError: for one that the catalog will not find.
    """
    if "deepviz.catalog" in sys.modules:
        return
    offered = (Path(__file__).parent.parent / "methods" / "__init__.py").read_text(encoding="utf-8")
    imported = re.findall(r"^from deepviz\.methods\.(\w+)\.(\w+) import (\w+)$", offered, re.MULTILINE)
    names = [module.replace("_", "-") for _, module, _ in imported]
    known = {name.lower() for family, module, cls in imported for name in (family, module.replace("_", ""), cls)}
    known.add("all")
    for option, value in pairwise(arguments):
        bare = re.sub(r"[-_ ]", "", value.lower())
        if option in ("-m", "--method") and bare.isalnum() and bare not in known:
            hint = nearest(value, names) or f"; there are {', '.join(names)}"
            raise UsageError(f"no method {value!r}{hint}")


def _version() -> str:
    from importlib.metadata import version

    return version("deepviz")
