"""A file system for tests with what an object store offers: whole files, no renaming, no appending."""

import os
import tempfile
from pathlib import Path
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

import tiny_run
from deepviz.runs import lock


class Bucket(LocalFileSystem):
    """bucket:///folder/a is the file /folder/a, which each process sees."""

    protocol = "bucket"

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("bucket://").strip("/")

    def pipe_file(self, path, value, mode="overwrite", **_):
        path = Path(self._strip_protocol(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        upload = Path(tempfile.gettempdir(), f"upload-{uuid4().hex}")
        upload.write_bytes(value)
        try:
            if mode == "create":
                os.link(upload, path)
            else:
                os.replace(upload, path)
        finally:
            upload.unlink(missing_ok=True)

    def rm_file(self, path):
        Path(self._strip_protocol(path)).unlink()

    def open(self, path, mode="rb", **options):
        assert mode == "rb", "an object is written as a whole"
        return super().open(path, mode, **options)

    def mv(self, *_, **__):
        raise NotImplementedError("an object cannot be renamed")

    mv_file = rename = move = mv


fsspec.register_implementation("bucket", Bucket, clobber=True)


class Pixels(list):
    """Images; whoever unpickles them knows the file system too."""


def go(out, environment, stale, **options):
    """A run in a process of its own, whose lease ends sooner than others."""
    os.environ.update(environment)
    lock.STALE, lock.BEAT, lock.SETTLED = stale, stale / 4, stale / 10
    tiny_run.go(out, **options)
