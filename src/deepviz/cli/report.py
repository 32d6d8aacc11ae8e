"""`deepviz report`: a standalone HTML report from stored results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deepviz.cli import OK, UsageError
from deepviz.results.storage import load_explanations
from deepviz.viewer import report as write_report


def report(
    *results: Path,
    title: Annotated[str | None, Parameter(help="Heading of the page.")] = None,
    output: Annotated[Path, Parameter(alias="-o", help="The page.")] = Path("report.html"),
) -> int:
    """Build a standalone HTML report from stored results, as written by deepviz explain --format deepviz.

    RESULTS are .deepviz files, or folders of them. The page needs no network and no server, and can be printed.
    """
    if not results:
        raise UsageError("give stored results: deepviz report deepviz-out")
    given = list(dict.fromkeys(path.resolve() for path in results))
    explanations = [one for path in given for one in load_explanations(path)]
    page = write_report(explanations, output, title=title)
    print(f"{page}: {len(explanations)} {'map' if len(explanations) == 1 else 'maps'}")
    return OK
