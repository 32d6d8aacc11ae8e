import json
from contextlib import suppress
from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from deepviz.cli import run
from deepviz.errors import LayerError, MissingExtra, TargetError
from deepviz.methods import GradTimesImage, IntegratedGradients
from deepviz.models import TextEmbedder
from deepviz.models.adapted import Adapted
from deepviz.models.tokens import hf_words
from deepviz.models.torchvision_shim import import_torchvision
from deepviz.models.two_towers import hf_texts, image_embedding, open_clip_texts
from deepviz.objectives import Text
from deepviz.results.storage import Photographs
from deepviz.viewer.records import record, rows
from small_models import PLAIN, seeded

VOCABULARY = ("[s]", "a", "red", "blue", "arma", "dillo", "[e]")
SCALE, BIAS = 20.0, -3.0
POSITION = torch.tensor([0.3, 0.2, 0.4])


class MeanColour(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


class BagOfWords(nn.Module):
    """t = mean of v_i + c, with the embeddings v_i of the tokens."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(len(VOCABULARY), 3)

    def forward(self, texts):
        tokens = [[0, *(VOCABULARY.index(piece) for piece in pieces(text)), 6] for text in texts]
        return self.table(torch.tensor(tokens)).mean(1) + POSITION


def pieces(text):
    return text.replace("armadillo", "arma dillo").split()


def words(tokens):
    names = {0: "[start]", 6: "[end]", 4: "armadillo"}
    return [(names.get(token, VOCABULARY[token]), 2 if token == 4 else 1) for token in tokens if token != 5]


def planted(**options):
    text = seeded(BagOfWords())
    known = {"embedding": text.table, "words": words} | options
    embedder = TextEmbedder(text, text, lambda text: len(pieces(text)) + 2, 8, lambda: SCALE, lambda: BIAS, **known)
    return deepviz.LoadedModel(MeanColour(), "planted", PLAIN, output="embedding", texts=embedder)


def slope(E, t):
    """d s cos(E, t) / dt."""
    return SCALE * (E / (E.norm() * t.norm()) - (E @ t) * t / (E.norm() * t.norm() ** 3))


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save("photo.png")
    return "photo.png"


def test_relevances_of_words_are_those_of_the_formula(photo):
    """Of grad-times-image dS/dt v_i / L; of integrated gradients its mean on the path from c to t."""
    model = planted()
    E = model.prepare(photo).x.mean((1, 2)).double()
    v = model.texts.embedding.weight.detach().double()[[0, 1, 4, 5, 2, 6]]
    mean, c = v.mean(0), POSITION.double()
    times, path = deepviz.explain_text(model, photo, "a armadillo red", ["grad-times-image", IntegratedGradients(100)])
    assert [word for word, _ in times.word_values] == ["[start]", "a", "armadillo", "red", "[end]"]
    steps = (torch.arange(4000) + 0.5) / 4000
    along = torch.stack([slope(E, c + share * mean) for share in steps]).mean(0)
    for one, gradient in ((times, slope(E, c + mean)), (path, along)):
        start, a, arma, dillo, red, end = (v @ gradient / 6).tolist()
        found = [value for _, value in one.word_values]
        np.testing.assert_allclose(found, [start, a, arma + dillo, red, end], rtol=1e-4, atol=1e-5)
    logit = SCALE * torch.cosine_similarity(E, c + mean, dim=0) + BIAS
    assert times.target.score == pytest.approx(float(logit), abs=1e-4)
    without = SCALE * torch.cosine_similarity(E, c, dim=0) + BIAS
    assert sum(value for _, value in path.word_values) == pytest.approx(float(logit - without), abs=1e-3)


def test_texts_that_it_is_compared_with_change_the_value_and_not_the_words(photo):
    alone, against = deepviz.explain_text(planted(), photo, ["red a", Text("red a", against=("blue a",))], "gradient")
    assert alone.word_values == against.word_values
    assert alone.target.score != against.target.score
    assert against.target.label == "“red a” against “blue a”"


def test_the_model_keeps_no_hook_and_its_mode(photo):
    model = planted()
    model.texts.model.train()
    deepviz.explain_text(model, photo, "red", "gradient")
    with pytest.raises(LayerError, match="Grad-CAM explains layers of the image encoder: for words use"):
        deepviz.explain_text(model, photo, "red", "grad-cam")
    assert model.texts.model.training
    assert not model.texts.embedding._forward_hooks


@pytest.mark.parametrize(
    ("options", "text", "message"),
    [
        ({}, "", "must not be empty"),
        ({}, "a a a a a a a", "has 9 tokens, of which the model reads 8 alone"),
        ({"embedding": None}, "red", "planted: it is not known how the model embeds tokens"),
        ({"words": lambda tokens: [("red", 1)]}, "red", "must count all 3 tokens of 'red'"),
        ({"embedding": nn.Embedding(2, 3)}, "red", "ran 0 times for a text"),
    ],
)
def test_what_has_no_words_is_refused(photo, options, text, message):
    with pytest.raises(TargetError, match=message):
        deepviz.explain_text(planted(**options), photo, text)


def test_a_field_has_the_colour_of_its_word(photo):
    (one,) = deepviz.explain_text(planted(), photo, "red armadillo blue", "grad-times-image")
    drawn = np.asarray(one.overlay(), int)
    plain = np.asarray(one.image, int)
    colours = one.overlay(opacity=1)
    assert one.scale.high == pytest.approx(max(abs(value) for _, value in one.word_values))
    assert np.asarray(colours).shape == plain.shape
    for word, (_, value) in zip(one.words, one.word_values, strict=True):
        left, top, right, bottom = word.field
        assert np.all(one.values[top:bottom, left] == np.float32(value))
        letters = plain[top:bottom, left:right].min(-1) < 60
        if not word.text.startswith("["):
            assert letters.any()
        assert np.array_equal(drawn[top:bottom, left:right][letters], plain[top:bottom, left:right][letters])
    raising = [value > 0 for _, value in one.word_values]
    assert len(set(raising)) == 2
    for word, up in zip(one.words, raising, strict=True):
        red, _, blue = drawn[word.field[1], word.field[0]]
        assert (red >= blue) if up else (blue >= red)


def test_words_are_stored_and_reported(photo, tmp_path):
    found = deepviz.explain_text(planted(), photo, "red armadillo", ["gradient", "integrated-gradients"])
    again = deepviz.load_explanations(deepviz.save_explanations(found, tmp_path / "words"))
    for one, other in zip(found, again, strict=True):
        assert one.words == other.words
        np.testing.assert_allclose(
            [value for _, value in one.word_values], [value for _, value in other.word_values], atol=1e-3
        )
    assert json.loads(json.dumps(found[0].metadata()))["words"] == [list(pair) for pair in found[0].word_values]
    page = deepviz.report(found, tmp_path / "report.html").read_text()
    word, value = found[1].word_values[2]
    assert (word, f"{word} {value:.3g}" in page) == ("armadillo", True)
    assert record(found[1])["map"]["size"] == list(found[1].image.size)


def test_the_same_text_for_two_images_stays_apart(photo):
    Image.new("RGB", (30, 40), (20, 120, 220)).save("other.png")
    found = deepviz.explain_text(planted(), [photo, "other.png"], "red blue", "gradient")
    assert [one.source for one in found] == [photo, "other.png"]
    assert [len(group) for _, group in rows(found, Photographs())] == [1, 1]
    assert found[0].image.tobytes() == found[1].image.tobytes()


def test_the_command_line_explains_words_beside_the_image(photo, capsys):
    command = ["explain", photo, "--model", "runs.test_words:planted", "-m", "grad-times-image", "--words"]
    assert run([*command, "--target", 'text("red armadillo")', "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["photographs"]
    image, text = entry["explanations"]
    expected = deepviz.explain_text(planted(), photo, "red armadillo", "grad-times-image")[0]
    assert [tuple(pair) for pair in text["words"]] == [(word, pytest.approx(v)) for word, v in expected.word_values]
    assert "words" not in image
    assert (image["file"][-20:], text["file"][-26:]) == ("grad-times-image.png", "grad-times-image_words.png")
    for target, message in (("0", "--words needs texts"), ('similarity(file("photo.png"))', "--words needs texts")):
        assert run([*command, "--target", target]) == 2
        assert message in capsys.readouterr().err
    assert run([*command, "--target", 'text("red")', "--check"]) == 2
    assert run([*command, "--target", 'text("red")', "--pair"]) == 2


# models of transformers and open_clip, against their own logits


def tokenizer(kind):
    """A small tokenizer of each kind: "car" is one word of two pieces."""
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    if kind == "clip":
        names = ["<|startoftext|>", "<|endoftext|>", *"ardce", "a</w>", "d</w>", "r</w>", "re", "red</w>", "ar</w>"]
        vocabulary = {name: number for number, name in enumerate(names)}
        merges = [("a", "r</w>"), ("r", "e"), ("re", "d</w>")]
        return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=8)
    if kind == "siglip":
        scores = [("</s>", 0.0), ("<unk>", -9.0), ("▁a", -1.0), ("▁red", -1.0), ("▁ca", -1.0), ("r", -1.0), ("▁", -5.0)]
        made = Tokenizer(models.Unigram(scores, unk_id=1))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
        return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="</s>")
    names = ["[CLS]", "[SEP]", "[PAD]", "[UNK]", "a", "red", "ca", "##r"]
    made = Tokenizer(models.WordPiece({name: n for n, name in enumerate(names)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special)


EXPECTED = {
    "clip": [("[start]", 1), ("a", 1), ("red", 1), ("car", 2), ("[end]", 1)],
    "siglip": [("a", 1), ("red", 1), ("car", 2), ("[end]", 1), ("[padding]", 3)],
    "chinese_clip": [("[start]", 1), ("a", 1), ("red", 1), ("car", 2), ("[end]", 1)],
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_pieces_are_joined_to_words(kind):
    own = tokenizer(kind)
    padding = {"padding": "max_length", "max_length": 8} if kind == "siglip" else {}
    assert hf_words(own)(own("a red car", **padding)["input_ids"]) == EXPECTED[kind]


def tiny(kind):
    import transformers

    with suppress(MissingExtra):  # what reads images in transformers needs it
        import_torchvision()
    sizes = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    own = tokenizer(kind)
    texts = {"vocab_size": len(own), "max_position_embeddings": 8, "pad_token_id": own.pad_token_id}
    if kind != "chinese_clip":
        texts |= {"bos_token_id": 0, "eos_token_id": own.eos_token_id}
    images = {"image_size": 32, "patch_size": 8}
    extra = {} if kind == "siglip" else {"projection_dim": 16}
    name = {"clip": "CLIP", "siglip": "Siglip", "chinese_clip": "ChineseCLIP"}[kind]
    torch.manual_seed(0)
    made = getattr(transformers, f"{name}Config")(
        text_config=sizes | texts | extra, vision_config=sizes | images | extra, **extra
    )
    whole = getattr(transformers, f"{name}Model")(made).eval()
    with torch.no_grad():
        for parameter in whole.parameters():  # at 0.02 nothing but positions would count
            parameter += 0.1 * torch.randn_like(parameter)
    return whole, own


@pytest.mark.parametrize("kind", EXPECTED)
def test_words_are_explained_by_the_librarys_own_logit(kind):
    whole, own = tiny(kind)
    model = deepviz.LoadedModel(
        Adapted(whole, image_embedding, "embedding"), kind, output="embedding", texts=hf_texts(whole, lambda: own)
    )
    x = torch.rand(3, 32, 32)
    padding = {"padding": "max_length", "max_length": 8} if kind == "siglip" else {}
    tokens = own("a red car", return_tensors="pt", **padding)
    given = {"input_ids": tokens["input_ids"]} if kind == "siglip" else dict(tokens)

    def logit(of):
        return of(pixel_values=x[None], **given).logits_per_image[0, 0]

    times, path = deepviz.explain_text(model, x, "a red car", [GradTimesImage(), IntegratedGradients(200)])
    score = logit(whole)
    assert times.target.score == pytest.approx(score.item(), rel=1e-5, abs=1e-4)
    table = model.texts.embedding.weight
    (gradient,) = torch.autograd.grad(score, table)
    # the gradient of a row of the table is the sum over the tokens that are that row
    by_token = (gradient * table).sum(1)
    ids = given["input_ids"][0].tolist()
    assert [(word.text, word.tokens) for word in times.words] == EXPECTED[kind]
    for token in set(ids):
        found = sum(float(times.attribution[0, k]) for k, one in enumerate(ids) if one == token)
        assert found == pytest.approx(by_token[token].item(), rel=1e-3, abs=1e-4)
    blank = deepcopy(whole)
    with torch.no_grad():
        hf_texts(blank, lambda: own).embedding.weight.zero_()
        difference = (score - logit(blank)).item()
    assert sum(value for _, value in path.word_values) == pytest.approx(difference, rel=0.02, abs=0.02)


def test_words_of_a_model_of_open_clip():
    try:
        import_torchvision()
        open_clip = pytest.importorskip("open_clip", reason="the extra clip is not installed")
    except MissingExtra:
        pytest.skip("the extra clip is not installed")
    torch.manual_seed(0)
    small = {"width": 32, "layers": 1}
    whole = open_clip.CLIP(
        16, small | {"image_size": 32, "patch_size": 8, "head_width": 8}, small | {"heads": 4, "vocab_size": 49408}
    ).eval()
    texts = open_clip_texts(open_clip, "ViT-B-32", whole)
    model = deepviz.LoadedModel(whole.visual, "small", output="embedding", texts=texts)
    x = torch.rand(3, 32, 32)
    (times,) = deepviz.explain_text(model, x, "A naïve armadillo, red", GradTimesImage())
    assert [(word.text, word.tokens) for word in times.words] == [
        ("[start]", 1), ("a", 1), ("naïve", 3), ("armadillo", 2), (",", 1), ("red", 1), ("[end]", 1), ("[padding]", 67),
    ]  # fmt: skip
    tokens = open_clip.get_tokenizer("ViT-B-32")(["A naïve armadillo, red"])
    image, text = whole.encode_image(x[None], normalize=True), whole.encode_text(tokens, normalize=True)
    logit = whole.logit_scale.exp() * (image * text).sum()
    (gradient,) = torch.autograd.grad(logit, whole.token_embedding.weight)
    by_token = (gradient * whole.token_embedding.weight).sum(1)[tokens[0, :10]]
    assert torch.allclose(times.attribution[0, :10], by_token, rtol=1e-3, atol=1e-5)
    assert times.word_values[-1][1] == 0
