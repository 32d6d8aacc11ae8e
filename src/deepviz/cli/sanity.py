"""`deepviz sanity`: what is left of each method's map when the network's weights are random."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from json import dumps
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from deepviz import catalog
from deepviz.cli import INPUT, UsageError
from deepviz.cli.extra import Extra, ExtraTable, read_extra
from deepviz.cli.method_options import Budget, MethodOptions, built
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
from deepviz.cli.photographs import Photographs, bundled_example, images_of_runs, listed, own_name, stem
from deepviz.cli.progress import Cost, progress_bar
from deepviz.cli.records import ImageRecords, asked, own_folder
from deepviz.cli.targets import Target, parsed_targets
from deepviz.cli.truth import Truth, read_truth
from deepviz.errors import DeepVizWarning, MissingExtra, OutputError, TargetError
from deepviz.files import probe_folder, write_bytes, write_picture
from deepviz.methods import Method
from deepviz.models import LoadedModel, Prepared
from deepviz.objectives import Objective
from deepviz.probe.memory import keep_memory
from deepviz.probe.seeds import check_seed
from deepviz.render.figure import as_png
from deepviz.results.identity import captions
from deepviz.results.sanity import Examined, RandomizationResult, Sanity, StoredRandomization, numbers_of
from deepviz.results.tables import Format, in_format
from deepviz.runs.asked import Item
from deepviz.runs.sanity import STAGES, Randomization, randomize_items
from deepviz.runs.truth import GroundTruth
from deepviz.runs.verdicts import remember

NOTHING_GIVEN = MethodOptions()


def sanity(
    *photos: str,
    model: Model = None,
    weights: Weights = None,
    method: Annotated[
        list[str] | None,
        Parameter(
            alias="-m",
            negative="",
            help=f"Method to check, repeat for several: {', '.join(catalog.METHODS)}; or a family: "
            f"{', '.join(catalog.families())}.",
        ),
    ] = None,
    target: Target = None,
    labels: Labels = None,
    truth: Truth = None,
    extra: Extra = None,
    stages: Annotated[int, Parameter(help="Number of steps in which the layers are randomised.")] = STAGES,
    mode: Annotated[
        Literal["cascading", "independent"],
        Parameter(help="Cascading: from the output down; independent: the layers of one step at a time."),
    ] = "cascading",
    seed: Annotated[int, Parameter(help="Seed of the random weights.")] = 0,
    layer: Annotated[str | None, Parameter(help="Layer for the methods that take one; see deepviz layers.")] = None,
    budget: Budget = None,
    device: Device = None,
    output_kind: OutputKind = "auto",
    output: Annotated[Path, Parameter(alias="-o", help="Folder for the results.")] = Path("deepviz-out"),
    format: Annotated[
        Format, Parameter(help="How the result is printed: for people, as CSV, or as a table in Markdown or LaTeX.")
    ] = "table",
    resume: Annotated[
        bool, Parameter(negative="", help="Go on with an earlier run: images that it has checked are left out.")
    ] = False,
    json: Annotated[bool, Parameter(negative="", help="Print the results as JSON.")] = False,
    loading: LoadingOptions = NOTHING_SAID,
    options: Annotated[MethodOptions, Parameter(name="*")] = NOTHING_GIVEN,  # type: ignore[valid-type]
) -> int:
    """Check whether the methods' maps depend on what the network has learned (Adebayo et al. 2018).

    PHOTOS are files or folders; of the folder of a run (deepviz run), its images, by its methods. Without any, the
    bundled example image is used. Writes a strip of maps
    for each image and target, the curves of all, sanity.json, sanity.csv (the means) and sanity_values.csv (a line for
    each image, method and stage). The verdicts are saved for deepviz explain --check.
    """
    if stages < 1:
        raise UsageError(f"--stages must be at least 1, got {stages}")
    try:
        check_seed(seed)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    given, of_runs = images_of_runs(photos)
    methods = built(method or of_runs or catalog.default_set(), options, layer, budget)
    check_device(device)
    classes, names = read_truth(truth, labels, target)
    photographs = Photographs.found(given or (str(bundled_example()),))
    if classes is not None:
        classes.check_names(photographs.paths)
    run = Run(photographs, methods, Randomization(stages, mode == "cascading", seed))
    if photographs.paths:
        probe_folder(output)
        keep_memory()
        loaded = loaded_model(model, weights, names, device, output_kind, loading)
        photographs.narrow(loaded.reads)
        run.extra = read_extra(extra, photographs.paths)
        targets = parsed_targets(target, loaded)
        output = own_folder(
            output,
            "sanity",
            asked(loaded, methods, photographs, targets, classes)
            | {"stages": stages, "mode": mode, "seed": seed}
            | ({} if run.extra is None else {"extra": run.extra.digest}),
            resume,
        )
        records = ImageRecords.opened(output, "sanity", resume)
        try:
            run.examine(loaded, targets, classes, output, records)
        except KeyboardInterrupt:
            if run.examined:
                found = run.sanity(loaded)
                run.written += _write(found, output)
                if json:
                    print(dumps(found.as_json() | photographs.not_done() | {"interrupted": True}, indent=2))
            raise KeyboardInterrupt(
                f"interrupted after {run.images} of {photographs.total} images"
                + (f": {listed(run.written)}" if run.written else "")
            ) from None
        if run.examined:
            found = run.sanity(loaded)
            run.written += _write(found, output)
            if json:
                print(dumps(found.as_json() | photographs.not_done(), indent=2))
            elif format == "table":
                print(f"{found}\n\n{listed(run.written)}")
            else:
                print(in_format(found, format))
                print(f"deepviz: {listed(run.written)}", file=sys.stderr)
            if mode == "cascading":
                _remember(found)
    photographs.tell_failures()
    return photographs.exit_code(len(run.examined)) if run.examined else INPUT


@dataclass
class Run:
    """The images under way and what was found of them.

    Args:
        photographs: the images.
        methods: the methods.
        randomization: how layers get random weights.
        extra: what the model takes beside each image; None if that is nothing.
        examined: what was found, by the image.
        written: the strips.
        taken: the names of strips, by sub-folder.
    """

    photographs: Photographs
    methods: list[Method]
    randomization: Randomization
    extra: ExtraTable | None = None
    examined: dict[Path, list[Examined]] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)
    taken: dict[Path, set[str]] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Of how many images the results are, which may be of several targets each."""
        return len(self.examined)

    def sanity(self, loaded: LoadedModel) -> Sanity:
        """What was found, image by image in their order."""
        names = self.photographs.names
        found = [one for path in self.photographs.paths for one in _named(self.examined.get(path, ()), names[path])]
        return Sanity.of(loaded, self.methods, found, self.randomization.cascading, self.randomization.seed)

    def examine(
        self,
        loaded: LoadedModel,
        targets: tuple[Objective, ...] | None,
        classes: GroundTruth | None,
        output: Path,
        records: ImageRecords,
    ) -> None:
        """Examine image by image, writing the strip of each."""
        asked_of_images = self._asked(loaded, targets, classes)
        self._take_up(asked_of_images, output, records)
        each = len(self.methods) * (self.randomization.stages + 1)
        passes = sum(method.passes() for method in self.methods) * (self.randomization.stages + 1)
        cost = Cost(passes * max(1, len(targets or ())), self.photographs.total - self.images)
        with warnings.catch_warnings(), progress_bar() as progress:
            warnings.simplefilter("ignore", DeepVizWarning)
            total = self.photographs.total * each

            def step(what: str, done: float) -> None:
                progress.show(what, (self.images + len(self.photographs.failed)) * each + done, total)

            for one in randomize_items(
                loaded,
                self._items(loaded, asked_of_images),
                self.methods,
                self.randomization,
                progress=step,
                on_error=lambda item, error: self.photographs.fail(item.image, error),
            ):
                cost.image_done()
                if one.image in self.photographs.opened:  # further targets of the same image follow it
                    path = self.photographs.close(one.image)
                    strips: list[str] = []
                self._draw(loaded, one, path, output, strips)
                mine = self.examined.setdefault(path, [])
                mine.append(one)
                of = asked_of_images[path]
                if len(mine) == len(of or (None,)):
                    numbers = [numbers_of(one) for one in mine]
                    records.add(path, _plain(of), {"numbers": numbers, "strips": strips})
                    # the maps are drawn: kept for all images, they would fill the memory
                    image = object()
                    self.examined[path] = [StoredRandomization.from_json(one, image) for one in numbers]
        left_out = {
            f"{name}: {reason}"
            for examined in self.examined.values()
            for one in examined
            for name, reason in zip(captions(self.methods, one.layers, one.titles), one.reasons, strict=True)
            if reason is not None
        }
        for text in sorted(left_out):
            print(f"deepviz: left out: {text}", file=sys.stderr)

    def _asked(
        self, loaded: LoadedModel, targets: tuple[Objective, ...] | None, classes: GroundTruth | None
    ) -> dict[Path, tuple[Objective, ...] | None]:
        """What is explained of each image; one whose class is not known has failed."""
        if classes is None:
            return dict.fromkeys(self.photographs.paths, targets)
        found = {}
        for path in self.photographs.paths:
            try:
                found[path] = classes.targets(path, self.photographs.folders[path], loaded.labels)
            except TargetError as error:
                self.photographs.failed[str(path)] = str(error)
        return found

    def _items(self, loaded: LoadedModel, asked_of_images: dict[Path, tuple[Objective, ...] | None]) -> Iterator[Item]:
        """Each image that is not examined, with what is explained of it; one without a line in the table has failed."""
        paths = [path for path in asked_of_images if path not in self.examined]
        for image in self.photographs.prepared(loaded, paths):
            path = self.photographs.opened[image]
            try:
                along = None if self.extra is None else self.extra.of(path)
            except TargetError as error:
                self.photographs.fail(image, error)
            else:
                yield Item(image, asked_of_images[path], inputs=along)

    def _draw(self, loaded: LoadedModel, one: RandomizationResult, path: Path, output: Path, strips: list[str]) -> None:
        """Write the strip of one image and target."""
        strip = Sanity.of(loaded, self.methods, [one], self.randomization.cascading).strip()
        inside = self.photographs.folders[path]
        strips.append(own_name(stem(path), self.taken.setdefault(inside, set())))
        self.written.append(write_picture(_strip(output, inside, strips[-1]), strip))

    def _take_up(
        self,
        asked_of_images: dict[Path, tuple[Objective, ...] | None],
        output: Path,
        records: ImageRecords,
    ) -> None:
        """Take what an earlier run has recorded of images that the same is asked of, and whose strips are there."""
        for path, of in asked_of_images.items():
            inside = self.photographs.folders[path]
            found = records.find(path, _plain(of))
            if found is None or not all(_strip(output, inside, name).exists() for name in found["strips"]):
                continue
            image = object()
            self.examined[path] = [StoredRandomization.from_json(one, image) for one in found["numbers"]]
            self.taken.setdefault(inside, set()).update(name.casefold() for name in found["strips"])
        if records.resumed:
            print(f"deepviz: {self.images} of {self.photographs.total} images are done already", file=sys.stderr)


def _named(examined: Sequence[Examined], name: str) -> Iterator[Examined]:
    """What was found of one image, by a name that no other image of the run has."""
    images: dict[int, Prepared] = {}  # by the one that the targets of an image share, as they do afterwards
    for one in examined:
        if isinstance(one, StoredRandomization):
            yield replace(one, name=name)
        else:
            yield replace(one, image=images.setdefault(id(one.image), replace(one.image, name=name)))


def _strip(output: Path, inside: Path, name: str) -> Path:
    return output / inside / f"{name}_sanity.png"


def _plain(targets: tuple[Objective, ...] | None) -> list[str] | None:
    """What is explained of an image, as plain values for JSON."""
    return None if targets is None else [str(one) for one in targets]


def _write(found: Sanity, output: Path) -> list[Path]:
    files = [
        write_bytes(output / "sanity.json", dumps(found.as_json(), indent=1).encode()),
        write_bytes(output / "sanity.csv", found.to_csv().encode()),
        write_bytes(output / "sanity_values.csv", found.to_csv("values").encode()),
    ]
    try:
        files.append(write_bytes(output / "sanity_curves.png", as_png(found.plot())))
    except MissingExtra as error:
        print(f"deepviz: no sanity_curves.png: {error}", file=sys.stderr)
    return files


def _remember(found: Sanity) -> None:
    try:
        remember(found)
    except OutputError as error:
        print(f"deepviz: the verdicts were not saved: {error}", file=sys.stderr)
