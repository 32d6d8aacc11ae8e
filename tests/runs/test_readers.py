"""The files of a run are read by other libraries as docs/runs.md says, without DeepViz."""

import numpy as np
import pytest
import torch

import deepviz
from tiny_run import METHODS, loaded

zarr = pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")
COLUMNS = ["index", "image", "label", "probability", "correct", "method", "map", "position", "maximum", "sparseness"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of images of two sizes, one of which cannot be explained, and some without a label."""
    images = [(torch.rand(3, 8, 8 + 2 * (number % 2)), number % 3) for number in range(8)]
    images[5] = (torch.rand(2, 8, 8), 1)
    images[6] = torch.rand(3, 8, 10)
    out = tmp_path_factory.mktemp("run")
    return deepviz.run(loaded(), images, METHODS, out=out, shard_size=3, top_k=2, metrics=["sparseness"])


def expected(run):
    return [{name: row[name] for name in COLUMNS} for row in run.rows.to_pylist()]


def plain(rows):
    """NaN, which stands for nothing in some tables, is None."""
    return [{name: None if value != value else value for name, value in row.items()} for row in rows]


def test_pandas_reads_rows_and_zarr_the_maps_they_name(run):
    pandas = pytest.importorskip("pandas")
    rows = pandas.read_parquet(run.folder / "rows")
    assert plain(rows[COLUMNS].to_dict("records")) == expected(run)
    for row in rows[rows["map"].notna()].to_dict("records"):
        values = zarr.open_array(f"{run.folder}/{row['map']}", mode="r")[int(row["position"])]
        found = run.map(row["index"], row["method"], rank=int(row["rank"])).numpy()
        assert np.array_equal(values.astype("float32") * np.float32(row["maximum"]), found)


def test_polars_reads_rows(run):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    assert polars.read_parquet(f"{run.folder}/rows/*.parquet").select(COLUMNS).to_dicts() == expected(run)
    wrong = polars.scan_parquet(f"{run.folder}/rows").filter(~polars.col("correct")).collect()
    assert set(wrong["index"]) == set(run.where("not correct").images)


def test_duckdb_asks_rows(run):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    rows = f"'{run.folder}/rows/*.parquet'"
    found = duckdb.sql(f"SELECT {', '.join(f'{chr(34)}{name}{chr(34)}' for name in COLUMNS)} FROM {rows}").fetchall()
    assert [dict(zip(COLUMNS, row, strict=True)) for row in found] == expected(run)
    means = duckdb.sql(f"SELECT method, avg(sparseness) FROM {rows} WHERE map IS NOT NULL GROUP BY method").fetchall()
    for method, mean in means:
        values = run.where(f"method == '{method}' and not failure").rows["sparseness"].to_numpy()
        assert mean == pytest.approx(values.mean(), rel=1e-12)


def test_xarray_opens_all_maps_as_one_tree(run):
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    with xarray.open_datatree(run.folder / "maps", engine="zarr", consolidated=False) as tree:
        assert {node.attrs["method"] for node in tree.children.values()} == set(METHODS)
        for row in run.where("not failure").rows.to_pylist():
            stored = tree[row["map"].removeprefix("maps/")][row["position"]]
            assert stored.dims == tuple(f"{axis}{length}" for axis, length in zip("cyx", stored.shape, strict=True))
            found = run.map(row["index"], row["method"], rank=row["rank"]).numpy()
            assert np.array_equal(stored.values.astype("float32") * np.float32(row["maximum"]), found)
