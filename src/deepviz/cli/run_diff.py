"""`deepviz diff`: which predictions of two runs differ, and which are kept for another reason."""

from __future__ import annotations

import sys
from json import dumps
from typing import Annotated, Any

from cyclopts import Parameter

from deepviz.cli import OK, UsageError
from deepviz.errors import DeepVizError
from deepviz.models.images import shown
from deepviz.results.run_diff import Change, Diff
from deepviz.results.run_diff import diff as compared

ABOVE = 1
"""The exit code of a change above --fail-above."""


def diff(
    one: Annotated[str, Parameter(help="Folder of a run.")],
    other: Annotated[str, Parameter(help="Folder of the run that is compared with it.")],
    *,
    method: Annotated[
        str | None,
        Parameter(alias="-m", help="Method whose maps are compared; by default the only one that both runs have."),
    ] = None,
    noise: Annotated[
        str | None, Parameter(help="A run that should not differ from the first, such as one with another seed.")
    ] = None,
    fail_above: Annotated[
        float | None, Parameter(help="Exit with 1 if the mean change, less the noise, is larger.")
    ] = None,
    most: Annotated[int, Parameter(help="Number of classes and images that are listed.")] = 10,
    json: Annotated[bool, Parameter(negative="", help="Print everything as JSON.")] = False,
) -> int:
    """Compare the maps of two runs over the same images, such as of two checkpoints.

    Lists the images that kept their prediction and whose map changed most. The change of a map is 1 - the correlation
    of its pixels: 0 for the same map, 1 for maps that have nothing to do with each other, 2 for opposite ones.
    """
    try:
        found = compared(one, other, method, noise=noise)
    except DeepVizError:
        raise
    except (ValueError, LookupError) as error:
        raise UsageError(str(error)) from None
    if json:
        print(dumps(_plain(found), indent=2))
    else:
        print(found)
        for line in found.by_class()[:most]:
            print(f"  class {line['class']}: {line['change']:.3f} ({line['images']} images)")
        for change in found.reasons[:most]:
            print(f"  {shown(change.image)}: {change.predictions[0]}, change {change.change:.3f}")
    if fail_above is not None and found.mean_change > fail_above:
        print(f"deepviz: the mean change {found.mean_change:.3f} is above {fail_above}", file=sys.stderr)
        return ABOVE
    return OK


def _plain(found: Diff) -> dict[str, Any]:
    def plain(one: Change) -> dict[str, Any]:
        return {
            "image": one.image,
            "label": one.label,
            "predictions": list(one.predictions),
            "change": one.change,
            "noise": one.noise,
            "significant": one.significant,
        }

    return {
        "method": found.method,
        "images": len(found.changes),
        "unmatched": found.unmatched,
        "altered": found.altered,
        "mean change": found.mean_change if found.reasons else None,
        "classes": found.by_class(),
        "other predictions": [plain(one) for one in found.flipped],
        "reasons": [plain(one) for one in found.reasons],
    }
