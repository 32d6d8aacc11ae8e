"""`deepviz run`: explain a data set of any size, in shards that are written as they are done."""

from __future__ import annotations

import sys
from collections import Counter
from json import dumps
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

from cyclopts import Parameter

from deepviz import catalog
from deepviz.cli import INPUT, OK, PARTLY, UsageError
from deepviz.cli.method_options import LOCALISING, METRICS, MethodOptions, built, built_metric
from deepviz.cli.model_options import (
    NOTHING_SAID,
    Device,
    Labels,
    LoadingOptions,
    Model,
    OutputKind,
    Weights,
    check_device,
    loaded_model,
)
from deepviz.cli.progress import progress_bar, time_in_words
from deepviz.cli.targets import Target, parsed_targets
from deepviz.errors import DeepVizError
from deepviz.models.images import shown
from deepviz.probe.memory import keep_memory
from deepviz.remote import AnyPath, path_of
from deepviz.results.outcomes import Skipped
from deepviz.results.run import Run
from deepviz.results.shards import library
from deepviz.runs.dataset_run import Asked, EngineName, Plan, run_asked
from deepviz.runs.places import places_of
from deepviz.runs.sources import source_of

NOTHING_GIVEN = MethodOptions()
METHOD = "grad-cam"
MOST_TOLD = 10
"""Lines about images that have failed."""


def run(
    *source: Annotated[
        str,
        Parameter(
            help="A folder, whose sub-folders are labels; a .csv or .parquet with the columns file and label; "
            "WebDataset's tars; a data set of Hugging Face; or images. Also URLs, such as s3://bucket/photos."
        ),
    ],
    output: Annotated[str, Parameter(alias="-o", help="Folder of the run; also a URL, such as s3://bucket/run.")],
    model: Model = None,
    weights: Weights = None,
    labels: Labels = None,
    method: Annotated[
        list[str] | None,
        Parameter(
            alias="-m",
            negative="",
            help="Method to run, repeat for several; as for deepviz explain. [default: grad-cam]",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            help=f"Metric of each map, repeat for several: {', '.join(METRICS)}; also with options.",
        ),
    ] = None,
    target: Target = None,
    top_k: Annotated[int, Parameter(help="Explain this many of the best predictions.")] = 1,
    layer: Annotated[str | None, Parameter(help="Layer for the methods that take one; see deepviz layers.")] = None,
    device: Device = None,
    output_kind: OutputKind = "auto",
    boxes: Annotated[
        Path | None,
        Parameter(
            help="A .csv with the columns file, left, top, right, bottom, in pixels, one line for each object: where "
            f"it is, for {', '.join(LOCALISING)}."
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        Parameter(help="The same as a folder of pictures, each of the size and name of an image: what is not black."),
    ] = None,
    workers: Annotated[int, Parameter(help="Worker processes, each with the model; of Ray, actors.")] = 1,
    shard_size: Annotated[int, Parameter(help="Images of a shard: at most so many are done again after a kill.")] = 256,
    engine: Annotated[
        EngineName, Parameter(help="Where the workers are: on this machine, or on the nodes of a Ray cluster.")
    ] = "local",
    gpus: Annotated[float, Parameter(help="With --engine ray: GPUs of each worker, or the part of one.")] = 0.0,
    ray_address: Annotated[
        str | None,
        Parameter(
            help="With --engine ray: address of a cluster. [default: RAY_ADDRESS, else a cluster on this machine]"
        ),
    ] = None,
    retry_failed: Annotated[
        bool, Parameter(negative="", help="Compute shards again in which something has failed or an image has changed.")
    ] = False,
    json: Annotated[bool, Parameter(negative="", help="Print the summary as JSON.")] = False,
    options: Annotated[MethodOptions, Parameter(name="*")] = NOTHING_GIVEN,  # type: ignore[valid-type]
    loading: LoadingOptions = NOTHING_SAID,
) -> int:
    """Explain a data set of any size: maps and a table in a folder, written shard by shard.

    The same command goes on where it stopped, however it was ended. With more methods or metrics it computes these
    alone. The results of another question, such as of other weights, are not mixed: that is an error. The folder is
    opened by deepviz.Run in Python; its maps are Zarr arrays, its table Parquet files.
    """
    if not source:
        raise UsageError("give a folder of images, a table or tars: deepviz run photos -o out")
    if top_k < 1:
        raise UsageError(f"--top-k must be at least 1, got {top_k}")
    if target and top_k != 1:
        raise UsageError("--top-k is for the predicted classes: give it, or --target")
    try:
        plan = Plan(workers, shard_size, engine, gpus, ray_address)
    except ValueError as error:
        raise UsageError(str(error)) from None
    library("zarr"), library("pyarrow")
    methods = built(method or [METHOD], options, layer)
    metrics = [built_metric(name) for name in metric or []]
    lenient = all(catalog.members(name) is not None for name in method or [METHOD])
    check_device(device)
    keep_memory()
    loaded = loaded_model(model, weights, labels, device, output_kind, loading)
    images = source_of(list(source) if len(source) > 1 else source[0], loaded.reads)
    wanted = parsed_targets(target, loaded)
    try:
        asked = Asked.of(
            loaded, images, methods, metrics, None if wanted is None else list(wanted), top_k, shard_size,
            lenient=lenient, places=places_of(boxes, masks, images),
        )  # fmt: skip
    except DeepVizError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None
    return told(explained(asked, path_of(output), plan, retry_failed), json)


def explained(asked: Asked, output: AnyPath, plan: Plan, retry_failed: bool = False) -> Run:
    """The run of what is asked, with its progress on stderr."""
    with progress_bar("images") as bar:
        rate = Rate()

        def show(done: int, total: int) -> None:
            bar.show(rate.told(done, total), done, total)

        return run_asked(
            asked, output, plan, retry_failed=retry_failed, progress=show,
            said=lambda text: print(f"deepviz: note: {text}", file=sys.stderr),
        )  # fmt: skip


class Rate:
    """How many images a second are done, since the first of them."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def told(self, done: int, total: int) -> str:
        """The rate and the time left, in words; "" before there is one."""
        now = monotonic()
        if self._first is None:
            self._first = now, done
        started, before = self._first
        if done <= before or now - started < 1:
            return ""
        rate = (done - before) / (now - started)
        return f"{rate:.3g} images/s, {time_in_words((total - done) / rate)} left"


def told(run: Run, as_json: bool) -> int:
    """Print where a run is and what is in it; the exit code."""
    names = ["index", "image", "method", "map", "failure", "reason", "correct", *run.metrics]
    columns = run.rows.select(names).to_pylist()
    maps = sum(row["map"] is not None for row in columns)
    failed: dict[str, str] = {}
    missing: Counter[tuple[str, str]] = Counter()
    for row in columns:
        if row["failure"] is not None and row["method"] is None:
            failed[row["image"]] = row["reason"]
        elif row["failure"] is not None:
            missing[row["method"], row["reason"]] += 1
    known = {row["index"]: row["correct"] for row in columns if row["correct"] is not None}
    summary: dict[str, Any] = {
        "run": str(run.folder),
        "images": len(run),
        "maps": maps,
        "methods": list(run.methods),
        "metrics": list(run.metrics),
        "accuracy": sum(known.values()) / len(known) if known else None,
        "failed": failed,
        "missing": [{"method": one, "reason": reason, "maps": count} for (one, reason), count in missing.items()],
    }
    for name, reason in list(failed.items())[:MOST_TOLD]:
        print("deepviz:", reason if shown(name) in reason else f"{shown(name)}: {reason}", file=sys.stderr)
    if len(failed) > MOST_TOLD:
        print(f"deepviz: and {len(failed) - MOST_TOLD} more, the rows with a failure", file=sys.stderr)
    for name in run.metrics:
        without = sum(row["map"] is not None and row[name] is None for row in columns)
        if without:
            print(
                f"deepviz: {name} has no value for {without} of {maps} maps: see the column warnings", file=sys.stderr
            )
    for (one, reason), count in missing.items():
        print(f"deepviz: {one} has no map of {count} targets: {reason}", file=sys.stderr)
    if as_json:
        print(dumps(summary, indent=2))
    else:
        print(f"{run.folder}: {maps} maps of {len(run) - len(failed)} images by {', '.join(run.methods)}")
        if known:
            print(f"{sum(known.values())} of {len(known)} predictions are correct")
        if run.metrics:
            print(f"metrics: {', '.join(run.metrics)}")
        print(f"In Python: run = deepviz.Run({str(run.folder)!r})")
    if not maps:
        return INPUT
    return PARTLY if failed or any(row["failure"] not in (None, Skipped.__name__) for row in columns) else OK
