"""The rows of attention that the page gets: those of Python, packed; bounds; reasons."""

import base64
from io import BytesIO

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import deepviz
import small_models
from deepviz.inside import viz_attention
from deepviz.models import LoadedModel
from deepviz.web import Limits
from networks import TinyViT

LAYERS = ["blocks.0.attn", "blocks.1.attn"]


def photo():
    """A file of an image in which no two patches are alike."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def image_of(client):
    return client.post("/api/photographs?name=fox.png", content=photo()).json()["id"]


def unpacked(told):
    """(maps, rows, patches), and the sums of the rows."""
    maps, cells = 1 if told["mean_only"] else 1 + told["heads"], told["grid"][0] * told["grid"][1]
    peaks, sums = (np.frombuffer(base64.b64decode(told[name]), "<f4").reshape(maps, -1) for name in ("peaks", "sums"))
    levels = np.frombuffer(base64.b64decode(told["levels"]), np.uint8).reshape(maps, -1, cells)
    return peaks[..., None] * (levels / 255) ** 2, sums


def test_the_rows_are_those_of_python(serving):
    client = serving(small_models.class_token())
    assert client.get("/api/models/tokens/attention").json() == {"layers": LAYERS, "reason": ""}
    told = client.get(f"/api/models/tokens/photographs/{image_of(client)}/attention?layer={LAYERS[1]}").json()
    assert (told["grid"], told["heads"], told["special"], told["reason"]) == ([8, 8], 2, ["the class token"], "")
    rows, sums = unpacked(told)
    found = viz_attention(small_models.class_token(), Image.open(BytesIO(photo())), -1)
    assert told["geometry"] == {"size": list(found.geometry.size), "box": list(found.geometry.box)}
    # a step of the root is 1/255, so a value is within half a step of its slope, 2 sqrt(value)
    for n, head in enumerate((None, 0, 1)):
        for y, x in ((0, 0), (2, 5), (7, 7)):
            row = found.row(y, x, head).flatten().numpy()
            assert np.abs(rows[n, 8 * y + x] - row).max() <= row.max() * 1.01 / 255
            assert sums[n, 8 * y + x] == pytest.approx(row.sum(), abs=1e-5)
        assert np.abs(rows[n, 64] - found.row_of(0, head).flatten().numpy()).max() <= rows[n, 64].max() * 1.01 / 255


OF_MAP = 65 * 64
"""Values of all rows of one map: of 64 patches and the class token, over the patches."""


def test_of_too_many_values_there_is_the_mean_alone(serving):
    client = serving(small_models.class_token(), limits=Limits(attention_bytes=2 * OF_MAP))
    told = client.get(f"/api/models/tokens/photographs/{image_of(client)}/attention?layer={LAYERS[0]}").json()
    rows, _ = unpacked(told)
    assert (told["mean_only"], told["heads"], rows.shape) == (True, 2, (1, 65, 64))


def test_a_mean_that_is_too_large_is_refused(serving):
    client = serving(small_models.class_token(), limits=Limits(attention_bytes=OF_MAP - 1))
    told = client.get(f"/api/models/tokens/photographs/{image_of(client)}/attention?layer={LAYERS[0]}").json()
    assert list(told) == ["reason"]
    assert f"{OF_MAP} values, more than a page holds ({OF_MAP - 1}); use deepviz.viz_attention" in told["reason"]


def test_a_layer_that_pools_has_its_queries_rows(serving):
    class Pooled(TinyViT):
        def __init__(self):
            super().__init__(patches=63)
            self.query = nn.Parameter(torch.zeros(1, 2, 8))

        def forward(self, x):
            tokens = self.blocks(self.patch(x).flatten(2).transpose(1, 2) + self.position)
            queries = self.query.expand(len(x), -1, -1)
            return self.head(
                F.scaled_dot_product_attention(queries[:, None], tokens[:, None], tokens[:, None])[:, 0].sum(1)
            )

    client = serving(LoadedModel(small_models.seeded(Pooled()), "tokens", small_models.PREPROCESS))
    *_, layer = client.get("/api/models/tokens/attention").json()["layers"]
    told = client.get(f"/api/models/tokens/photographs/{image_of(client)}/attention", params={"layer": layer}).json()
    rows, sums = unpacked(told)
    assert (told["pools"], told["special"], rows.shape) == (True, ["query 0", "query 1"], (2, 2, 64))
    assert sums == pytest.approx(1, abs=1e-5)


def test_a_model_without_attention_says_so(client, photograph):
    told = client.get("/api/models/small/attention").json()
    assert told["layers"] == []
    assert told["reason"].startswith("it computes no attention on the image")
    told = client.get(f"/api/models/small/photographs/{photograph}/attention?layer=0").json()
    assert told["reason"].startswith("it computes no attention on the image")


def test_what_is_not_there(serving):
    client = serving(small_models.class_token())
    path = f"/api/models/tokens/photographs/{image_of(client)}/attention"
    refused = client.get(f"{path}?layer=norm")
    assert refused.status_code == 422
    assert "layers that do: blocks.0.attn, blocks.1.attn" in refused.json()["detail"]
    assert client.get(path).status_code == 422
    assert client.get(f"/api/models/tokens/photographs/{'0' * 64}/attention?layer=norm").status_code == 404


def test_volumes_have_none_that_can_be_drawn(serving):
    class Cube(nn.Module):
        """Attention between the cells of a volume."""

        def __init__(self):
            super().__init__()
            self.patch, self.head = nn.Conv3d(1, 8, 4, stride=4), nn.Linear(8, 3)

        def forward(self, x):
            tokens = self.patch(x).flatten(2).transpose(1, 2)
            return self.head(F.scaled_dot_product_attention(tokens, tokens, tokens).square().mean(1))

    loaded = LoadedModel(
        small_models.seeded(Cube()), "cube", deepviz.VolumePreprocess((8, 12, 16), window=(0, 1)), ("a", "b", "c")
    )
    told = serving(loaded).get("/api/models/cube/attention").json()
    assert told["layers"] == []
    assert "attention is drawn of images alone" in told["reason"]
