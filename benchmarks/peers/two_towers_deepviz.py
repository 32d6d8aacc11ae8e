import deepviz
from deepviz.models import TextEmbedder
from deepviz.objectives import Text


def explain(model, x, text):
    texts = TextEmbedder(model, model.encode_text, scale=lambda: float(model.logit_scale.exp()))
    loaded = deepviz.LoadedModel(model.visual, "own", None, output="embedding", texts=texts)
    found = deepviz.explain(loaded, x, ["grad-cam", "integrated-gradients"], target=Text(text))
    return {one.title: one.attribution[None] for one in found}
