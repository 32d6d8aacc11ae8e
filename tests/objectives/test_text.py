from contextlib import suppress

import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from deepviz.errors import MissingExtra, TargetError
from deepviz.methods import Gradient
from deepviz.models.texts import TextEmbedder
from deepviz.models.torchvision_shim import import_torchvision
from deepviz.objectives import Similarity, Text, from_plain, parse, to_plain
from networks import assert_same

WORDS = {"red": (1.0, 0, 0), "green": (0, 1.0, 0), "blue": (0, 0, 1.0)}
SCALE, BIAS = 20.0, -3.0


class MeanColour(nn.Module):
    """Embeds an image (3, H, W) as its mean colour (3,)."""

    def forward(self, x):
        return x.mean((2, 3))


@pytest.fixture
def model():
    """A planted model of images and texts: a text's embedding is the mean of the colours that it names."""
    asked = []

    def encode(texts):
        asked.append(texts)
        return torch.stack([torch.tensor([WORDS[word] for word in text.split()]).mean(0) for text in texts])

    embedder = TextEmbedder(nn.Identity(), encode, lambda text: len(text.split()), 3, lambda: SCALE, lambda: BIAS)
    preprocess = deepviz.Preprocess(8, crop=None, mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest")
    loaded = deepviz.LoadedModel(MeanColour(), "planted", preprocess, output="embedding", texts=embedder)
    return loaded, asked


def colours(*values):
    picture = Image.new("RGB", (8 * len(values), 8))
    for number, value in enumerate(values):
        picture.paste(value, (8 * number, 0, 8 * number + 8, 8))
    return picture


def gradient_of_cosine(E, t):
    """d cos(E, t) / dE = t / (|E| |t|) - cos E / |E|^2."""
    cosine = (E @ t) / (E.norm() * t.norm())
    return t / (E.norm() * t.norm()) - cosine * E / E.norm() ** 2


def test_the_logit_and_its_gradient_are_those_of_the_cosine(model):
    loaded, _ = model
    picture = colours((200, 100, 50), (0, 100, 200))
    E = loaded.prepare(picture).x.mean((1, 2))
    red, blue = torch.tensor(WORDS["red"]), torch.tensor(WORDS["blue"])
    one, two = deepviz.explain(
        loaded, picture, "gradient", target=[Text("red"), Text("red", against=("blue", "red blue"))]
    )
    assert one.target.score == pytest.approx(SCALE * float(E @ red / E.norm()) + BIAS, abs=1e-5)
    assert_same(one.attribution.sum((1, 2)), SCALE * gradient_of_cosine(E, red), 1e-5)
    against = (gradient_of_cosine(E, blue) + gradient_of_cosine(E, (red + blue) / 2)) / 2
    assert_same(two.attribution.sum((1, 2)), SCALE * (gradient_of_cosine(E, red) - against), 1e-5)
    assert (one.target.label, two.target.label) == ("“red”", "“red” against “blue”, “red blue”")


def test_texts_are_embedded_once(model):
    loaded, asked = model
    for _ in range(3):
        deepviz.explain(
            loaded, [colours((9, 99, 20)), colours((90, 9, 20))], ["gradient"], target=Text("red", ("blue",))
        )
    assert asked == [("red", "blue")]


@pytest.mark.parametrize("text", ['text("red")', 'text("red", ("blue",))', "text('red', against=('blue', 'green'))"])
def test_a_text_is_written_the_same_everywhere(model, text):
    objective = parse(text)
    assert parse(str(objective)) == objective == from_plain(to_plain(objective))
    (one,) = deepviz.explain(model[0], colours((200, 100, 50)), "gradient", target=text)
    again = deepviz.explain(
        model[0], colours((200, 100, 50)), "gradient", target=from_plain(to_plain(one.target.objective))
    )
    assert again[0].target.score == one.target.score


def test_what_cannot_be_asked(model):
    loaded, _ = model
    with pytest.raises(TargetError, match=r"'red green blue red'... has 4 tokens, of which the model reads 3 alone"):
        deepviz.explain(loaded, colours((1, 2, 3)), "gradient", target=Text("red green blue red"))
    with pytest.raises(TargetError, match=r"the texts cannot be embedded \(KeyError"):
        deepviz.explain(loaded, colours((1, 2, 3)), "gradient", target=Text("purple"))
    with pytest.raises(TargetError, match=r"embeds no texts: use a model of images and texts"):
        deepviz.explain(MeanColour(), torch.rand(3, 8, 8), "gradient", target=Text("red"), output="embedding")
    with pytest.raises(TargetError, match="no embedding yet"):
        Gradient()(MeanColour(), torch.rand(1, 3, 8, 8), Text("red"))
    for text in ("", "  "):
        with pytest.raises(TargetError, match="must not be empty"):
            Text(text)


def test_an_image_is_compared_with_a_file(model, tmp_path):
    loaded, _ = model
    colours((250, 10, 10)).save(tmp_path / "other.png")
    path = str(tmp_path / "other.png")
    picture = colours((120, 130, 140))
    E, other = (loaded.prepare(one).x.mean((1, 2)) for one in (picture, path))
    for target in (Similarity(path), f"similarity(file({path!r}))", f"similarity({path!r})"):
        (one,) = deepviz.explain(loaded, picture, "gradient", target=target)
        assert one.target.score == pytest.approx(float(torch.cosine_similarity(E, other, dim=0)), abs=1e-6)
        assert_same(one.attribution.sum((1, 2)), gradient_of_cosine(E, other), 1e-5)
        assert one.target.label == "similarity to other.png"
    with pytest.raises(deepviz.errors.ImageError, match="does not exist"):
        deepviz.explain(loaded, picture, "gradient", target=Similarity("nowhere.png"))


def tiny_clip(kind):
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    with suppress(MissingExtra):  # what reads images in transformers needs it
        import_torchvision()
    sizes = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    texts = {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 8}
    images = {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    config = {"clip": transformers.CLIPConfig, "siglip": transformers.SiglipConfig}[kind]
    extra = {"projection_dim": 16} if kind == "clip" else {}
    made = config(text_config=sizes | texts | extra, vision_config=sizes | images | extra, **extra)
    return {"clip": transformers.CLIPModel, "siglip": transformers.SiglipModel}[kind](made).eval()


class Tokenizer:
    """Letters as numbers, as a tokenizer of transformers returns them."""

    def __len__(self):
        return 99

    def __call__(self, texts, padding=None, max_length=None, truncation=None, return_tensors=None):
        from transformers import BatchEncoding

        if isinstance(texts, str):
            return {"input_ids": [1, *(3 + ord(letter) % 90 for letter in texts), 2]}
        rows = [self(text)["input_ids"] for text in texts]
        longest = max_length if padding == "max_length" else max(map(len, rows))
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return BatchEncoding({"input_ids": tokens, "attention_mask": (tokens > 0).long()})


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_it_is_the_logit_of_the_librarys_own_model(kind):
    from deepviz.models.adapted import Adapted
    from deepviz.models.two_towers import hf_texts, image_embedding

    whole = tiny_clip(kind)
    loaded = deepviz.LoadedModel(
        Adapted(whole, image_embedding, "embedding"), kind, output="embedding", texts=hf_texts(whole, Tokenizer)
    )
    x = torch.rand(2, 3, 32, 32)
    tokens = Tokenizer()(["fox", "wolf"], padding="max_length" if kind == "siglip" else True, max_length=8)
    with torch.no_grad():
        logits = whole(
            pixel_values=x, **(tokens if kind == "clip" else {"input_ids": tokens["input_ids"]})
        ).logits_per_image
    found = deepviz.explain(loaded, x, "gradient", target=[Text("fox"), Text("wolf"), Text("fox", ("wolf",))])
    scores = torch.tensor([one.target.score for one in found]).view(2, 3)
    assert_same(scores[:, :2], logits, 1e-4)
    assert_same(scores[:, 2], logits[:, 0] - logits[:, 1], 1e-3)
    assert float(found[0].attribution.abs().max()) > 0
    with pytest.raises(TargetError, match="has 12 tokens, of which the model reads 8 alone"):
        loaded.embed_texts(["abcdefghij"])


def test_a_folder_of_a_model_of_images_and_texts_is_loaded(tmp_path):
    tiny_clip("clip").save_pretrained(tmp_path / "clip")
    loaded = deepviz.load_model(f"hf:{tmp_path / 'clip'}")
    assert loaded.kind == "embedding"
    with pytest.raises(TargetError, match="the tokenizer's files are missing"):
        loaded.embed_texts(["fox"])
    x = torch.rand(3, 32, 32)
    found = deepviz.explain(loaded, x, ["grad-cam", "gradient"], target=Similarity(torch.randn(16)))
    assert found[0].attribution.shape == (1, 4, 4)


def test_other_weights_embed_texts_anew():
    tower = nn.Linear(3, 3, bias=False)
    embedder = TextEmbedder(tower, lambda texts: tower(torch.ones(len(texts), 3)))
    before = embedder(("a",)).embeddings
    assert torch.equal(embedder(("a",)).embeddings, before)
    with torch.no_grad():
        tower.weight.copy_(torch.eye(3))
    assert torch.equal(embedder(("a",)).embeddings, torch.ones(1, 3))
