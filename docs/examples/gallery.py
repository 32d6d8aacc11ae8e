"""The pictures of docs/gallery.md: one function for each.

python docs/examples/gallery.py            make all of them again
python docs/examples/gallery.py contrast   or some
"""

import io
import sys
import warnings
from pathlib import Path

from PIL import Image, ImageOps

import deepviz

FOLDER = Path(__file__).parent.parent / "_static" / "gallery"
WIDTH, LIMIT = 900, 150_000


def methods():
    cat = deepviz.example_photo("chelsea")
    return deepviz.sheet(deepviz.explain(None, cat, "all"))


def gradients():
    budgets = {"expected-gradients": "(samples=20)", "guided-ig": "(steps=50)", "smooth-grad": "(samples=20)"}
    methods = [name + budgets.get(name, "") for name in deepviz.catalog.families()["gradients"]]
    cat, coffee = deepviz.example_photo("chelsea"), deepviz.example_photo("coffee")
    images = [(cat, None), (coffee, None), (cat_and_coffee(), "espresso")]
    return stacked(deepviz.sheet(deepviz.explain(None, image, methods, target=target)) for image, target in images)


def every_cam():
    budgets = {"ablation-cam": "(channels=64)", "score-cam": "(channels=64)"}
    budgets |= {"ss-cam": "(channels=64, samples=4)", "is-cam": "(channels=64, steps=4)"}
    return [name + budgets.get(name, "") for name in deepviz.catalog.families()["cams"]]


def cams():
    cat = deepviz.example_photo("chelsea")
    return deepviz.sheet(deepviz.explain(None, cat, every_cam()))


def cams_of_a_cup():
    coffee = deepviz.example_photo("coffee")
    return deepviz.sheet(deepviz.explain(None, coffee, every_cam()))


def cams_of_two_objects():
    return deepviz.sheet(deepviz.explain(None, cat_and_coffee(), every_cam(), target="espresso"))


def black_box():
    names = catalog_of("perturbation")
    cat, coffee = deepviz.example_photo("chelsea"), deepviz.example_photo("coffee")
    images = [(cat, None), (coffee, None), (cat_and_coffee(), "espresso")]
    return stacked(deepviz.sheet(deepviz.explain(None, image, names, target=target)) for image, target in images)


def catalog_of(family):
    """The methods of a family, with a budget of 400 passes."""
    return [deepviz.catalog.find(name)().with_budget(400) for name in deepviz.catalog.families()[family]]


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
    methods, gradients, cams, cams_of_a_cup, cams_of_two_objects, black_box,
    another_image, classes, contrast, contact_sheet, layers,
    generated, dream, inversion, activations, filters, curves, sanity,
)  # fmt: skip


def cat_and_coffee():
    """The middle of both images, one above the other."""
    whole = Image.new("RGB", (448, 448))
    for place, name in enumerate(("chelsea", "coffee")):
        whole.paste(ImageOps.fit(Image.open(deepviz.example_photo(name)), (448, 224)), (0, 224 * place))
    return whole


def stacked(sheets):
    """Sheets of one width, one below the other."""
    sheets = list(sheets)
    whole = Image.new("RGB", (sheets[0].width, sum(sheet.height for sheet in sheets)))
    for place, sheet in enumerate(sheets):
        whole.paste(sheet, (0, sum(above.height for above in sheets[:place])))
    return whole


def picture(figure):
    """A matplotlib figure as an image."""
    file = io.BytesIO()
    figure.savefig(file, dpi=120)
    return Image.open(file)


def small(image):
    """The JPEG file of the best quality below `LIMIT` bytes."""
    for quality in (82, 74, 66, 58):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        if len(file.getvalue()) < LIMIT:
            break
    return file.getvalue()


def main():
    warnings.simplefilter("ignore", deepviz.DeepVizWarning)
    for make in ALL:
        if not sys.argv[1:] or make.__name__ in sys.argv[1:]:
            image = make().convert("RGB")
            if image.width > WIDTH:
                image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
            (FOLDER / f"{make.__name__}.jpg").write_bytes(small(image))


if __name__ == "__main__":
    main()
