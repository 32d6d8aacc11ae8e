"""The pictures of docs/gallery.md: one function for each.

python docs/examples/gallery.py            make all of them again
python docs/examples/gallery.py contrast   or some
"""

import io
import sys
import warnings
from pathlib import Path

from PIL import Image

import deepviz

FOLDER = Path(__file__).parent.parent / "_static" / "gallery"
WIDTH = 900


def methods():
    cat = deepviz.example_photo("chelsea")
    return deepviz.sheet(deepviz.explain(None, cat, "all"))


def another_image():
    coffee = deepviz.example_photo("coffee")
    return deepviz.sheet(deepviz.explain(None, coffee, ["integrated-gradients", "smooth-grad", "grad-cam"]))


def classes():
    cat = deepviz.example_photo("chelsea")
    return deepviz.sheet(deepviz.explain(None, cat, ["gradient", "grad-cam", "guided-grad-cam"], top_k=3))


def contrast():
    cat = deepviz.example_photo("chelsea")
    signed = ["grad-cam(relu=false)", "integrated-gradients", "grad-times-image"]
    return deepviz.sheet(deepviz.explain(None, cat, signed, target="tiger cat - Egyptian cat"))


def contact_sheet():
    photos = [deepviz.example_photo("chelsea"), deepviz.example_photo("coffee")]
    return deepviz.sheet(deepviz.explain(None, photos, ["gradient", "guided-backprop", "grad-cam"]))


def layers():
    cat = deepviz.example_photo("chelsea")
    methods = [f"grad-cam(layer=_blocks.{block})" for block in (2, 5, 10, 15)]
    return deepviz.sheet(deepviz.explain(None, cat, methods))


def generated():
    classes = ["strawberry", "bald eagle", "daisy", "hourglass"]
    return deepviz.ImageGenerator(None, classes, steps=160)().sheet()


def dream():
    cat = deepviz.example_photo("chelsea")
    return deepviz.DeepDream(None, "_blocks.9", side=480)(cat).images[0]


def inversion():
    cat = deepviz.example_photo("chelsea")
    return deepviz.inversion(None, cat, "_blocks.10", steps=96)().images[0]


def activations():
    cat = deepviz.example_photo("chelsea")
    return deepviz.viz_activations(None, cat, "_blocks.3", channels=8).sheet()


def filters():
    return deepviz.viz_filters(None).sheet()


def curves():
    photos = [deepviz.example_photo("chelsea"), deepviz.example_photo("coffee")]
    metrics = ["deletion(steps=25)", "insertion(steps=25)"]
    evaluation = deepviz.evaluate(None, photos, ["gradient", "integrated-gradients", "grad-cam"], metrics)
    return picture(evaluation.plot())


def sanity():
    cat = deepviz.example_photo("chelsea")
    return deepviz.sanity_check(None, cat, ["guided-backprop", "grad-cam"], stages=6).strip()


ALL = (
    methods, another_image, classes, contrast, contact_sheet, layers,
    generated, dream, inversion, activations, filters, curves, sanity,
)  # fmt: skip


def picture(figure):
    """A matplotlib figure as an image."""
    file = io.BytesIO()
    figure.savefig(file, dpi=120)
    return Image.open(file)


def main():
    warnings.simplefilter("ignore", deepviz.DeepVizWarning)
    for make in ALL:
        if not sys.argv[1:] or make.__name__ in sys.argv[1:]:
            image = make().convert("RGB")
            if image.width > WIDTH:
                image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
            image.save(FOLDER / f"{make.__name__}.jpg", quality=82, optimize=True)


if __name__ == "__main__":
    main()
