"""The files of a run: a manifest, maps in Zarr arrays, and a Parquet file of rows for each shard of the images.

A shard exists when its file of rows does: that is written last, and holds the hashes of the files of maps that it
refers to.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from errno import ENOENT
from hashlib import sha256
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepviz.errors import MissingExtra, OutputError, StoredError, in_one_line
from deepviz.files import write_bytes
from deepviz.remote import AnyPath, RemotePath

FORMAT = "deepviz run"
VERSION = 1
MANIFEST, ROWS, MAPS = "manifest.json", "rows", "maps"
COLUMNS = (
    ("index", "int64"),
    ("image", "string"),
    ("label", "string"),
    ("prediction", "string"),
    ("probability", "float64"),
    ("correct", "bool"),
    ("rank", "int64"),
    ("target", "string"),
    ("target_index", "int64"),
    ("target_probability", "float64"),
    ("score", "float64"),
    ("method", "string"),
    ("title", "string"),
    ("layer", "string"),
    ("input", "string"),
    ("failure", "string"),
    ("reason", "string"),
    ("map", "string"),
    ("position", "int64"),
    ("maximum", "float64"),
    ("content", "string"),
    ("objective", "string"),
    ("box", "floats"),
    ("geometry", "string"),
    ("notes", "string"),
    ("warnings", "strings"),
)
"""The columns of all rows, in their order; a column of numbers for each metric follows."""
ZSTD = 3
"""The level of compression."""
_AXES = {2: "cx", 3: "cyx", 4: "czyx"}
_METADATA = b"deepviz"
MAKE_ROOM = "make room, and run the same again"


def library(name: str) -> Any:
    """A module of zarr or pyarrow.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise MissingExtra(f"runs over datasets need {name.split('.')[0]}: pip install 'deepviz[data]'") from None


def read_manifest(folder: AnyPath) -> dict[str, Any] | None:
    """The manifest of a run; None if the folder has none.

    Raises:
        StoredError: for a file that is none, or of a newer version.
    """
    try:
        held = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoredError(f"{folder / MANIFEST} cannot be read: {in_one_line(error)}") from None
    if not isinstance(held, dict) or held.get("format") != FORMAT:
        raise StoredError(f"{folder / MANIFEST} is not the manifest of a run: it does not name {FORMAT!r}")
    if not isinstance(held.get("version"), int) or held["version"] > VERSION:
        raise StoredError(
            f"{folder} has format {held.get('version')!r}, this version of DeepViz reads up to {VERSION}: "
            "pip install -U deepviz"
        )
    return held


def write_manifest(folder: AnyPath, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a run.

    Raises:
        OutputError: if it cannot be written.
    """
    write_bytes(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode(), lasting=True)


def row_file(folder: AnyPath, shard: int) -> AnyPath:
    """The file of a shard's rows."""
    return folder / ROWS / f"{shard:08d}.parquet"


def shards_of(folder: AnyPath) -> list[int]:
    """The shards that exist."""
    found = (folder / ROWS).glob("*.parquet")
    return sorted(int(path.stem) for path in found if re.fullmatch(r"\d{8}", path.stem))


@dataclass(frozen=True, eq=False)
class Shard:
    """The rows of one shard.

    Args:
        number: of the shard.
        rows: one for each image, target and method, by column.
        methods: the names of the methods that they are of.
        metrics: the names of the metrics that they have.
        files: the SHA-256 of each file of maps that they refer to, by its path in the run's folder.
    """

    number: int
    rows: list[dict[str, Any]]
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)

    @property
    def contents(self) -> dict[int, str | None]:
        """By index of an image the SHA-256 of what was explained; None if it could not be read."""
        return {row["index"]: row["content"] for row in self.rows}

    def write(self, folder: AnyPath, *, new: bool = False) -> None:
        """Write the rows; from then on the shard exists.

        Args:
            folder: of the run.
            new: whether the shard did not exist: behind a URL it is then an error if it does, with other rows.

        Raises:
            OutputError: if they cannot be written.
        """
        arrow, parquet = library("pyarrow"), library("pyarrow.parquet")
        held = {
            "shard": self.number,
            "methods": list(self.methods),
            "metrics": list(self.metrics),
            "files": dict(sorted(self.files.items())),
            "rows sha256": _digest_of(self.rows, self.metrics),
        }
        schema = schema_of(self.metrics).with_metadata({_METADATA: json.dumps(held).encode()})
        content = BytesIO()
        parquet.write_table(
            arrow.Table.from_pylist(self.rows, schema), content, compression="zstd", write_page_checksum=True
        )
        path = row_file(folder, self.number)
        if new and isinstance(path, RemotePath):
            _create(path, content.getvalue())
        else:
            write_bytes(path, content.getvalue(), lasting=True, advice=MAKE_ROOM)

    @classmethod
    def read(cls, folder: AnyPath, number: int) -> Shard | None:
        """The rows of a shard; None if it does not exist.

        Raises:
            StoredError: if its file is damaged.
        """
        path = row_file(folder, number)
        try:
            table, held = read_rows(path)
        except FileNotFoundError:
            return None
        try:
            shard = cls(held["shard"], table.to_pylist(), tuple(held["methods"]), tuple(held["metrics"]), held["files"])
            whole = _digest_of(shard.rows, shard.metrics) == held["rows sha256"]
        except (LookupError, TypeError, ValueError) as error:
            raise StoredError(f"{path} is damaged: {in_one_line(error)}") from None
        if not whole or shard.number != number:
            raise StoredError(f"{path} is damaged: its rows are not those that were written")
        return shard

    def check_files(self, folder: AnyPath, *, whole: bool = True) -> None:
        """See that the maps are those that were written.

        Args:
            folder: of the run.
            whole: whether they are read, or just have to be there.

        Raises:
            StoredError: naming a file that is damaged or missing.
        """
        for name, digest in self.files.items():
            try:
                if not whole and not (folder / name).exists():
                    raise FileNotFoundError(ENOENT, os.strerror(ENOENT))
                known = file_digest(folder / name) if whole else digest
            except OSError as error:
                raise StoredError(f"{folder / name} cannot be read: {error.strerror or error}") from None
            if known != digest:
                raise StoredError(f"{folder / name} is damaged: its SHA-256 is not that of the shard's rows")


def _create(path: RemotePath, content: bytes) -> None:
    """Write a file that is not there, or holds the same.

    Raises:
        OutputError: if it holds something else, or cannot be written.
    """
    try:
        path.create(content)
        there = content
    except FileExistsError:  # of a worker that was lost after it had written
        there = path.read_bytes()
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; {MAKE_ROOM}") from error
    if there != content:
        raise OutputError(f"{path} was written by another run: wait for it, and run the same again")


def read_rows(path: AnyPath, without: Collection[str] = ()) -> tuple[Any, dict[str, Any]]:
    """A file of rows as a `pyarrow.Table`, and what is held beside them.

    Args:
        path: of the file.
        without: columns that are not read.

    Raises:
        FileNotFoundError: if there is none.
        StoredError: if it is damaged.
    """
    parquet = library("pyarrow.parquet")
    try:
        stored = BytesIO(path.read_bytes()) if isinstance(path, RemotePath) else path
        with parquet.ParquetFile(stored, page_checksum_verification=True) as file:
            held = json.loads(file.schema_arrow.metadata[_METADATA])
            whole = file.schema_arrow.remove_metadata().equals(schema_of(held["metrics"]))
            names = [name for name in file.schema_arrow.names if name not in without]
            table = file.read(names, use_threads=False)  # which cost more than they save, of files this small
        table = table.replace_schema_metadata(None)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can make Arrow's reader raise almost anything
        raise StoredError(f"{path} is damaged: {in_one_line(error)}") from None
    if not whole:
        raise StoredError(f"{path} is damaged: its columns are not those that were written")
    return table, held


def schema_of(metrics: Sequence[str]) -> Any:
    """The columns of a file of rows, as Arrow's schema."""
    arrow = library("pyarrow")
    kinds = {
        "string": arrow.string(),
        "float64": arrow.float64(),
        "int64": arrow.int64(),
        "bool": arrow.bool_(),
        "floats": arrow.list_(arrow.float64()),
        "strings": arrow.list_(arrow.string()),
    }
    fields = [(name, kinds[kind]) for name, kind in COLUMNS]
    return arrow.schema([*fields, *((name, arrow.float64()) for name in metrics)])


def _digest_of(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> str:
    """The SHA-256 of rows, whatever file they are in."""
    names = [name for name, _ in COLUMNS] + list(metrics)
    plain = [[row.get(name) for name in names] for row in rows]
    return sha256(json.dumps([names, plain]).encode()).hexdigest()


def file_digest(path: AnyPath) -> str:
    """The SHA-256 of a file."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def method_folder(name: str, key: str) -> str:
    """The folder of a method's maps.

    Example:
        >>> method_folder("grad-cam(relu=False)", "grad-cam(layer=None, relu=False)")
        'maps/grad-cam-44d9e47d'
    """
    stem = re.sub(r"[^a-z0-9]+", "-", name.split("(")[0].lower()).strip("-")
    return f"{MAPS}/{stem}-{sha256(key.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class MapArrays:
    """The arrays of maps of a run: one for each method and shape of maps.

    Args:
        folder: of the run.
        images: how many there are.
        shard_size: images of a shard.
        each: maps of an image, at most.
    """

    folder: AnyPath
    images: int
    shard_size: int
    each: int

    def position(self, image: int, rank: int) -> int:
        """Where the map of an image's target lies in an array."""
        return image * self.each + rank

    def empty(self, shape: Sequence[int], shard: int) -> NDArray[np.float16]:
        """Room for the maps of a shard, (images x each, *shape)."""
        images = min(self.shard_size, self.images - shard * self.shard_size)
        return np.zeros((images * self.each, *shape), np.float16)

    def write(self, name: str, shard: int, values: NDArray[np.float16]) -> dict[str, str]:
        """Write all maps of a shard as one file, and return its SHA-256 by its path.

        Args:
            name: of the array, its path in the run's folder.
            shard: the number of the shard.
            values: what `empty` made, filled.

        Raises:
            OutputError: if they cannot be written.
        """
        shape = values.shape[1:]
        path = self.folder / name
        self._make(path / "zarr.json", shape)
        key = "/".join(["c", str(shard), *("0" for _ in shape)])
        content = _zarr_shard(values, self.shard_size * self.each)
        write_bytes(path / key, content, lasting=True, advice=MAKE_ROOM)
        return {f"{name}/{key}": sha256(content).hexdigest()}

    def _make(self, path: AnyPath, shape: tuple[int, ...]) -> None:
        """Write what describes the array, at its full length, if no worker has: all write the same."""
        try:
            if path.exists():
                return
        except OSError as error:
            raise OutputError(f"{path} cannot be read: {error.strerror or error}") from error
        write_bytes(path, self._metadata(shape), advice=MAKE_ROOM)

    def _metadata(self, shape: tuple[int, ...]) -> bytes:
        zarr, codecs, storage = library("zarr"), library("zarr.codecs"), library("zarr.storage")
        axes = _AXES.get(len(shape), "abcdefgh"[: len(shape)])
        held: dict[str, Any] = {}
        zarr.create_array(
            storage.MemoryStore(held),
            shape=(self.images * self.each, *shape),
            chunks=(1, *shape),
            shards=(self.shard_size * self.each, *shape),
            dtype="float16",
            fill_value=0,
            compressors=[codecs.ZstdCodec(level=ZSTD), codecs.Crc32cCodec()],
            # one length for each name, so that arrays of several shapes can be opened as one data set
            dimension_names=["map", *(f"{axis}{length}" for axis, length in zip(axes, shape, strict=True))],
        )
        content: bytes = held["zarr.json"].to_bytes()
        return content


def _zarr_shard(values: NDArray[np.float16], most: int) -> bytes:
    """A file of Zarr's codec `sharding_indexed`: a chunk for each map, then where each lies.

    It is put together here because zarr takes 1 to 2 ms for each chunk, whatever its size.

    Args:
        values: the maps (n, ...).
        most: the chunks of a whole shard; the last one of a run may have fewer.
    """
    zstd, checksum = library("numcodecs").Zstd(level=ZSTD), library("google_crc32c").value

    def checked(content: bytes) -> bytes:
        code: int = checksum(content)
        return content + code.to_bytes(4, "little")

    chunks = [checked(zstd.encode(value.astype("<f2", copy=False).tobytes())) for value in values]
    index = np.full((most, 2), 2**64 - 1, "<u8")  # what is not there
    sizes = np.array([len(chunk) for chunk in chunks], np.uint64)
    index[: len(chunks), 0] = np.cumsum(sizes) - sizes
    index[: len(chunks), 1] = sizes
    return b"".join([*chunks, checked(index.tobytes())])


def write_group(folder: AnyPath, name: str, attributes: Mapping[str, Any]) -> None:
    """Make a Zarr group, with what it says about itself."""
    content = json.dumps({"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}, indent=2)
    path = folder / name / "zarr.json"
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        write_bytes(path, content.encode())


@dataclass(frozen=True, eq=False)
class MapReader:
    """Reads the maps of a run, one at a time.

    Args:
        folder: of the run.
    """

    folder: AnyPath
    _opened: dict[str, Any] = field(default_factory=dict, repr=False)

    def read(self, row: Mapping[str, Any]) -> NDArray[np.float32]:
        """The map of a row: what is stored, times the largest magnitude.

        Raises:
            StoredError: if it is damaged.
        """
        return dequantised(self._stored(row["map"], row["position"]), row["maximum"])

    def read_all(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[NDArray[np.float32]]:
        """The maps of some rows of one shard and array, which are read together.

        Raises:
            StoredError: if one is damaged.
        """
        positions = [row["position"] for row in rows]
        first, last = min(positions), max(positions)
        if len(positions) * 8 >= last - first + 1:  # a slice of all is faster than an index of each
            stored = self._stored(rows[0]["map"], slice(first, last + 1))
            found = [stored[position - first] for position in positions]
        else:
            found = [self._stored(rows[0]["map"], position) for position in positions]
        return (dequantised(values, row["maximum"]) for values, row in zip(found, rows, strict=True))

    def _stored(self, name: str, place: int | slice) -> NDArray[np.float16]:
        path = self.folder / name
        try:
            if name not in self._opened:
                self._opened[name] = library("zarr").open_array(_store_of(path), mode="r")
            return np.asarray(self._opened[name][place])
        except MissingExtra:
            raise
        except Exception as error:  # a damaged file can make Zarr's reader raise almost anything
            what = f"map {place}" if isinstance(place, int) else f"maps {place.start} to {place.stop - 1}"
            raise StoredError(f"{path}, {what}, is damaged: {in_one_line(error)}") from None


def _store_of(path: AnyPath) -> Any:
    """What Zarr opens."""
    if isinstance(path, RemotePath):
        return library("zarr.storage").FsspecStore.from_url(str(path), read_only=True)
    return str(path)


def quantised(values: NDArray[np.float32]) -> tuple[NDArray[np.float16], float]:
    """A map as it is stored, from -1 to 1, and its largest magnitude.

    Example:
        >>> stored, maximum = quantised(np.array([0.0, -3e-9, 1.5e-9], np.float32))
        >>> stored.tolist(), round(maximum, 12)
        ([0.0, -1.0, 0.5], 3e-09)
    """
    maximum = np.abs(values).max(initial=0)
    scaled = values if maximum == 0 else values / maximum
    # torch's conversion, which rounds in the same way and takes a twentieth of NumPy's time
    stored: NDArray[np.float16] = torch.from_numpy(np.ascontiguousarray(scaled)).half().numpy()
    return stored, float(maximum)


def dequantised(stored: NDArray[np.float16], maximum: float) -> NDArray[np.float32]:
    """The map that `quantised` stores, to 11 bits of each value."""
    values: NDArray[np.float32] = torch.from_numpy(np.array(stored)).float().numpy()
    return values * np.float32(maximum)


def left_over(folder: AnyPath) -> Iterator[Path]:
    """Half-written files of a run that was killed; behind a URL there are none."""
    if isinstance(folder, RemotePath):
        return
    yield from folder.glob(".*.part")
    yield from (folder / ROWS).glob(".*.part")
    for pattern in ("**/*.partial", "**/.*.part"):
        yield from (folder / MAPS).glob(pattern)
