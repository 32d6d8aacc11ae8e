"""The state of the application: models, images, results, jobs and drawings."""

from __future__ import annotations

import json
import warnings
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from deepviz import catalog
from deepviz.errors import DeepVizError, DeepVizWarning, ModelError
from deepviz.models import LoadedModel, example_photo
from deepviz.models.stored import FilePreprocess
from deepviz.web.drawings import Drawings
from deepviz.web.forms import Comparison, Row, Target, method_of, target_of
from deepviz.web.image_store import ImageStore
from deepviz.web.jobs import Cell, Job, Jobs
from deepviz.web.limits import Limits
from deepviz.web.model_service import LRUCache, ModelService, NotFound, Result, ids_of, result_bytes
from deepviz.web.snippets import Block, Shown

FIRST = ("grad-cam", "guided-backprop", "integrated-gradients", "smooth-grad")
"""The methods of the comparison that a page opens with, cheap ones first."""
FIRST_IMAGES = 2
EXAMPLES = ("chelsea", "coffee")


@dataclass(eq=False)
class AppState:
    """The state of the application."""

    models: dict[str, ModelService]
    photographs: ImageStore
    results: LRUCache[Result]
    jobs: Jobs
    drawings: Drawings
    first: list[str]
    opening: Job | None = None

    @classmethod
    def of(cls, models: Sequence[LoadedModel], paths: Iterable[Path] | None, limits: Limits) -> AppState:
        """Everything, connected; the images are read, nothing is computed.

        Raises:
            ModelError: if the models read files of unlike kinds, or in unlike ways.
        """
        results: LRUCache[Result] = LRUCache(limits.results_bytes, result_bytes)
        services: dict[str, ModelService] = {}

        def forgotten(photograph: str) -> None:
            results.drop(lambda _, result: result.photograph == photograph)
            for model in services.values():
                model.forget(photograph)

        photographs = ImageStore(limits, forgotten, reader_of(models))
        examples = list(map(example_photo, EXAMPLES)) if photographs.reader is None else []
        files = examples if paths is None else list(paths)
        first = photographs.add_files(files)
        for model_id, loaded in zip(ids_of(models), models, strict=True):
            services[model_id] = ModelService(model_id, loaded, photographs, results, limits)
        return cls(services, photographs, results, Jobs(limits), Drawings(limits), list(dict.fromkeys(first)))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """While the server runs: the first comparison is computed before anyone asks, warnings are in the results."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeepVizWarning)
            self._submit_first()
            warm = Thread(target=self.warm_up, name="deepviz warm-up", daemon=True)
            warm.start()
            try:
                yield
            finally:
                await run_in_threadpool(self.jobs.stop)  # first: it leaves the model no moment free
                await run_in_threadpool(self.drawings.stop)
                await run_in_threadpool(warm.join, 10)

    def _submit_first(self) -> None:
        """Take the comparison that a page opens with as the first job."""
        photographs = self.first[:FIRST_IMAGES]
        methods = [catalog.method(name) for name in FIRST]
        cells = [Cell(one, None, method, n) for n, method in enumerate(methods) for one in photographs]
        service = next(iter(self.models.values()))
        if cells and service.loaded.kind != "embedding":  # which predicts nothing
            self.opening = self.jobs.submit(service, cells)

    def warm_up(self) -> None:
        """Find out what applies to the first model before anyone asks."""
        service = next(iter(self.models.values()))
        with suppress(DeepVizError):  # the page requests the same, and gets the error
            service.layers()
            service.reasons()

    def model(self, model_id: str) -> ModelService:
        """A model by id."""
        if model_id not in self.models:
            raise HTTPException(404, f"no model {model_id!r}; there are {', '.join(self.models)}")
        return self.models[model_id]

    def result(self, result_id: str) -> Result:
        """A result by id."""
        found = self.results.get(result_id)
        if found is None:
            raise NotFound(f"result {result_id[:12]} not found (expired or unknown); explain again")
        return found

    def drawn(self, result_id: str) -> Result:
        """A result by id, or a map that is under way."""
        under_way = (service.so_far(result_id) for service in self.models.values())
        return next(filter(None, under_way), None) or self.result(result_id)

    def block(self, asked: Comparison) -> Block:
        """A comparison as a block of code."""
        methods = tuple(method_of(form, asked.layer) for form in asked.methods)
        return Block(self.model(asked.model).loaded, tuple(self._shown(asked, row) for row in asked.rows), methods)

    def _shown(self, asked: Comparison, row: Row) -> Shown:
        kept = self.photographs.info(row.photograph)
        targets = self._targets(asked, row)
        if targets is not None:
            targets = tuple(one if isinstance(one, int) else self._with_files(one) for one in targets)
        if kept.path is None:
            return Shown(kept.name, targets, uploaded=True)
        example = next((name for name in EXAMPLES if example_photo(name) == kept.path), None)
        return Shown(str(kept.path), targets, example)

    def _with_files(self, expression: str) -> str:
        """An expression with files in the place of images' ids."""
        for kept in self.photographs.listed():
            expression = expression.replace(kept.id, json.dumps(str(kept.path or kept.name))[1:-1])
        return expression

    def cells(self, asked: Comparison) -> list[Cell]:
        """The work of a comparison, method by method, the images known to be there."""
        for row in asked.rows:
            self.photographs.info(row.photograph)
        methods = [method_of(form, asked.layer) for form in asked.methods]
        targets = [self._targets(asked, row) for row in asked.rows]
        return [
            Cell(row.photograph, of_row, method, column)
            for column, method in enumerate(methods)
            for row, of_row in zip(asked.rows, targets, strict=True)
        ]

    def _targets(self, asked: Comparison, row: Row) -> tuple[Target, ...] | None:
        if row.targets is None:
            return None
        labels = self.model(asked.model).loaded.labels
        return tuple(dict.fromkeys(target_of(one, labels) for one in row.targets))


def reader_of(models: Sequence[LoadedModel]) -> FilePreprocess | None:
    """What reads the files of the server, which are the same for all of its models; None for pictures.

    Raises:
        ModelError: if the models do not read them alike.
    """
    readers = [one.preprocess if isinstance(one.preprocess, FilePreprocess) else None for one in models]
    for one, reader in zip(models, readers, strict=True):
        if reader != readers[0]:
            ways = " and ".join(f"{each.name} reads {each.reads}" for each in (models[0], one))
            raise ModelError(f"{ways}, with preprocessing that is not the same: serve each on a --port of its own")
    return readers[0]
