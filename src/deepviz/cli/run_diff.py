"""`deepviz diff`: which predictions of two runs differ, and which are kept for another reason."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from deepviz.cli import OK, UsageError
from deepviz.cli.dataset_run import METHOD, explained
from deepviz.cli.method_options import MethodOptions, built
from deepviz.cli.model_options import (
    NOTHING_SAID,
    Device,
    Labels,
    LoadingOptions,
    Model,
    OutputKind,
    check_device,
    loaded_model,
)
from deepviz.cli.targets import Target, parsed_targets
from deepviz.errors import DeepVizError
from deepviz.models.images import shown
from deepviz.probe.memory import keep_memory
from deepviz.results.run import Run
from deepviz.results.run_diff import Change, Diff
from deepviz.results.run_diff import diff as compared
from deepviz.runs.dataset_run import Asked, Plan
from deepviz.runs.sources import source_of

ABOVE = 1
"""The exit code of a change above --fail-above."""


def diff(
    one: Annotated[str, Parameter(help="Folder of a run; or with --source a file of weights.")],
    other: Annotated[str, Parameter(help="The run, or the file of weights, that is compared with it.")],
    *,
    source: Annotated[
        list[str] | None,
        Parameter(negative="", help="Images, as for deepviz run: both files of weights are run over them first."),
    ] = None,
    model: Model = None,
    labels: Labels = None,
    method: Annotated[
        str | None,
        Parameter(
            alias="-m",
            help=f"Method whose maps are compared; by default the only one that both runs have, and {METHOD} with "
            "--source.",
        ),
    ] = None,
    noise: Annotated[
        str | None,
        Parameter(help="A run, or with --source weights, that should not differ from the first: of another seed, say."),
    ] = None,
    target: Target = None,
    layer: Annotated[str | None, Parameter(help="Layer for the methods that take one; see deepviz layers.")] = None,
    device: Device = None,
    output_kind: OutputKind = "auto",
    workers: Annotated[int, Parameter(help="Worker processes, each with the model.")] = 1,
    output: Annotated[Path, Parameter(alias="-o", help="Folder of the runs that are made of files of weights.")] = Path(
        "deepviz-diff"
    ),
    fail_above: Annotated[
        float | None, Parameter(help="Exit with 1 if the mean change, less the noise, is larger.")
    ] = None,
    most: Annotated[int, Parameter(help="Number of classes and images that are listed.")] = 10,
    json: Annotated[bool, Parameter(negative="", help="Print everything as JSON.")] = False,
    loading: LoadingOptions = NOTHING_SAID,
) -> int:
    """Compare the maps of two runs over the same images, or those of two checkpoints of a model over --source.

    Lists the images that kept their prediction and whose map changed most. The change of a map is 1 - the correlation
    of its pixels: 0 for the same map, 1 for maps that have nothing to do with each other, 2 for opposite ones.
    """
    if source is not None:
        check_device(device)
        keep_memory()

    def opened(path: str, name: str) -> Run:
        """The run in a folder; or that of a file of weights, which goes on where it stopped."""
        if not Path(path).is_file():
            return Run(path)
        if source is None:
            raise UsageError(f"{path} is no folder of a run; for files of weights give the images as --source")
        loaded = loaded_model(model, path, labels, device, output_kind, loading)
        wanted = parsed_targets(target, loaded)
        images = source_of(source if len(source) > 1 else source[0], loaded.reads)
        methods = built([method or METHOD], MethodOptions(), layer)
        try:
            plan = Plan(workers)
            targets = None if wanted is None else list(wanted)
            asked = Asked.of(loaded, images, methods, [], targets, 1, plan.shard_size, lenient=False)
        except DeepVizError:
            raise
        except ValueError as error:
            raise UsageError(str(error)) from None
        return explained(asked, output / name, plan)

    before, after = opened(one, "before"), opened(other, "after")
    third = None if noise is None else opened(noise, "noise")
    try:
        found = compared(before, after, method, noise=third)
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
