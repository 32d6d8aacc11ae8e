"""The architectures of the zoo: with random weights, small, and what their authors' code says about their layers."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from zoo import Architecture, Layout, channels_first, channels_last, sequence_first, tokens

from deepviz.models.sources import known_model
from deepviz.models.torchvision_shim import import_timm, import_torchvision
from deepviz.objectives import Detection, Output, Pixels

ARCHITECTURES: list[Architecture] = []
SIZE = (96, 128)
SIZED = {"img_size": SIZE}


Rules = str | Mapping[str, Layout]


def add(name: str, package: str, build: Callable[[], nn.Module], last: Rules, **known: Any) -> None:
    ARCHITECTURES.append(Architecture(name, package, build, last=last, **known))


# ------------------------------------------------------------------------------------------------------------- timm


def timm(
    name: str,
    last: Rules,
    layout: Layout = channels_first,
    *,
    options: dict[str, Any] | None = None,
    module: str = "",
    **known: Any,
) -> None:
    """A model of timm by its name, or, where that fixes the size, by its module and class."""

    def build() -> nn.Module:
        made = import_timm()
        given = {"num_classes": 5, **(options or {})}
        if not module:
            return made.create_model(name, pretrained=False, **given)
        home = importlib.import_module(f"timm.models.{module}")
        for key, value in given.items():  # classes by their names
            if key.endswith("_layer") and isinstance(value, str):
                given[key] = getattr(home, value)
        return getattr(home, kind)(**given)

    kind = {"gMLP": "MlpMixer", "ResMLP": "MlpMixer"}.get(name, name)
    add(f"timm {name}", "timm", build, last, layout=layout, **known)


def unrolled(h: int, w: int) -> Layout:
    """Hiera's order: for each of three poolings by 2 x 2, the cells that it joins lie apart from each other."""

    def lay(values: Tensor) -> Tensor:
        from timm.models.hiera import Unroll

        pools = [(2, 2)] * {24: 3, 12: 2, 6: 1}[h]
        order = Unroll((h, w), (1, 1), pools)(torch.arange(h * w).view(1, -1, 1).double())[0, :, 0].long()
        return values[:, order.argsort()].unflatten(1, (h, w)).movedim(-1, 1)

    return lay


PATCHES = (6, 8)
"""Of 16 x 16 in the image."""
CLASS_FIRST = tokens(*PATCHES, before=1)
TINY = {"img_size": SIZE, "embed_dim": 64, "depth": 2, "num_heads": 2}
"""A vision transformer of two blocks."""
TINY14 = {**TINY, "img_size": (112, 140)}

# convolutional: everything lies as (N, C, H, W)
timm("test_byobnet", "stages")
timm("mobileone_s0", "stages")
timm("repvgg_a0", "stages")
timm("gernet_s", "final_conv")
timm("resnet50_clip", "stages", options=SIZED)
timm("botnet26t_256", "stages", options=SIZED)
timm("halonet26t", "stages", image=(3, 256, 256))
timm("lambda_resnet26t", "stages", options=SIZED)
timm("ConvMixer", "blocks", module="convmixer", options={"dim": 48, "depth": 3})
timm("test_convnext", r"stages|norm_pre", named={"stages.1": channels_first})
timm("cpubone_nano", r"head\.in_conv")
timm("csatv2", "stages")
timm("cs3darknet_focus_s", "stages")
timm("cspresnet50", "stages")
timm("cspnext_tiny", "stages")
timm("densenet121", "features")
timm("dla34", "level5")
timm("dpn48b", "features")
timm("edgenext_xx_small", "stages|norm_pre")
timm("test_efficientnet", "bn2")
timm("efficientnet_lite0", "bn2")
timm("mixnet_s", "bn2")
timm("tinynet_e", "bn2")
timm(
    "efficientvim_m1",
    {r"norm\.3|stages\.2\.blocks\.\d": channels_first, r"stages\.[12]\.blocks\..*": channels_first},
)
timm("efficientvit_b0", r"head\.in_conv")
timm("efficientvit_m0", {"stages": channels_first, r"stages\.\d\..*": channels_first}, options=SIZED)
timm("fasternet_t0", "stages")
timm("fastvit_t8", "final_conv")
timm("FocalNet", "norm", module="focalnet", options={"embed_dim": 24, "depths": (1, 1, 1, 1)})
timm("ghostnet_050", "blocks")
timm("hardcorenas_a", "blocks")
timm("hgnetv2_b0", "stages")
timm("hrnet_w18_small", "final_layer")
timm("iformer_t", "stages")
timm("inception_next_atto", "stages")
timm("inception_resnet_v2", "conv2d_7b")
timm("inception_v3", "Mixed_7c", named={"Mixed_6e": channels_first}, image=(3, 128, 160))
timm("inception_v4", "features", image=(3, 128, 160))
timm("lcnetv2_small", "stages")
timm("lowformer_b0", "in_conv")
timm("mobilenetv3_small_050", "blocks")
timm("mobilenetv4_conv_small_035", "blocks")
timm("lcnet_050", "blocks")
timm("test_nfnet", "final_act")
timm("nf_resnet26", "final_act")
timm("nextvit_small", "norm")
timm("poolformer_s12", r"stages|head\.norm")
timm("caformer_s18", r"stages")
timm("rdnet_tiny", r"dense_stages")
timm("regnetx_002", "s4")
timm("regnety_002", "s4")
timm("repghostnet_050", "blocks")
timm("repvit_m0_9", "stages", options=SIZED)
timm("res2net50_14w_8s", "layer4")
timm("resnest14d", "layer4")
timm("test_resnet", "layer4")
timm("resnet18", "layer4", named={"layer2": channels_first, "layer4.1.act2": channels_first})
timm("seresnet18", "layer4")
timm("resnetblur18", "layer4")
timm("legacy_seresnet18", "layer4")
timm("skresnet18", "layer4")
timm("resnetv2_18", "norm")
timm("resnetv2_50x1_bit", "norm")
timm("rexnet_100", "features")
timm("selecsls42", "head")
timm("shvit_s1", {"stages": channels_first, r"stages\.2\..*": channels_first})
timm("starnet_s050", "norm")
timm("tresnet_m", "body")
timm("ese_vovnet19b_slim", "stages")
timm("legacy_xception", "act4")
timm("xception41", "blocks")

# attention on maps that stay (N, C, H, W)
timm("test_coatnet", "norm", options=SIZED)
timm("maxvit_pico_rw_256", "norm", options=SIZED)
timm(
    "DaVit",
    "stages|norm_pre",
    module="davit",
    options={"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 48, 64), "num_heads": (1, 2, 3, 4)},
)
timm("efficientformerv2_s0", "norm", options=SIZED)
timm(
    "GlobalContextVit",
    "stages",
    module="gcvit",
    options={
        "img_size": SIZE,
        "embed_dim": 16,
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 2, 2, 4),
        "window_ratio": (32, 32, 16, 32),
    },
)
timm("levit_conv_128s", {"stages": channels_first, r"stages\.[12]\..*": channels_first}, options=SIZED)
timm("mobilevit_xxs", "final_conv", options=SIZED)
timm(
    "mobilevitv2_050",
    {r"stages(\.4(\.\d)?)?": channels_first, r"stages\.4\.1\.conv_1x1": channels_first},
    options=SIZED,
)
timm("pvt_v2_b0", "stages")
timm("samvit_base_patch16", "neck", options={**TINY, "global_attn_indexes": (1,)}, named={"blocks.0": channels_last})
timm("swiftformer_xs", "norm", options=SIZED)
timm(
    "swinv2_cr_tiny_224",
    "stages",
    options={"img_size": SIZE, "embed_dim": 12, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 4)},
)
timm("tiny_vit_5m_224", {"stages": channels_first, r"stages\.3\..*": channels_first})
timm("visformer_tiny", {"norm": channels_first, r"stage3\..*": channels_first}, options=SIZED)
timm(
    "Nest",
    "norm",
    channels_last,
    module="nest",
    options={"img_size": 96, "embed_dims": (16, 32, 48), "num_heads": (1, 2, 3), "depths": (1, 1, 2)},
    image=(3, 96, 96),
)

# (N, H, W, C)
timm("test_mambaout", "stages", channels_last)
timm(
    "swin_tiny_patch4_window7_224",
    "norm",
    channels_last,
    options={"img_size": SIZE, "embed_dim": 12, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 4), "window_size": 4},
    named={"layers.1": channels_last, "patch_embed": channels_last},
)
timm(
    "swinv2_tiny_window8_256",
    "norm",
    channels_last,
    options={"img_size": SIZE, "embed_dim": 12, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 4), "window_size": 4},
)
timm(
    "sequencer2d_s",
    "norm",
    channels_last,
    options={"img_size": SIZE, "layers": (1, 1, 1, 1), "embed_dims": (24, 48, 48, 48), "hidden_sizes": (6, 12, 12, 12)},
)
timm(
    "sam2_hiera_tiny",
    r"trunk|blocks\.\d|norm|trunk\.blocks\.\d",
    channels_last,
    options={"embed_dim": 24, "stages": (1, 1, 2, 1)},
)
timm("deepseek_vit_412m", "encoder", channels_last, options=TINY14, image=(3, 112, 140), rounding=1e-5)
timm("qwen3_vit_88m", "encoder", channels_last, options=TINY)

# tokens, row by row, some with others before them
timm("beit_base_patch16_224", "norm", CLASS_FIRST, options=TINY)
timm(
    "cait_xxs24_224",
    r"blocks_token_only\.0\.norm1",
    CLASS_FIRST,
    options={**TINY, "depth_token_only": 1},
    named={"blocks.0": tokens(*PATCHES)},
)
timm(
    "coat_lite_tiny",
    {r"serial_blocks4\.1\.norm1": tokens(3, 4, before=1), r"cpe4\.proj": channels_first},
    options={**SIZED, "embed_dims": [16, 32, 48, 64]},
    named={"patch_embed3": tokens(6, 8), "serial_blocks2.0": tokens(12, 16, before=1)},
)
timm(
    "CoaT",
    {
        r"parallel_blocks\.1\.(norm14|norm24|mlp4)|norm4": tokens(3, 4, before=1),
        r"serial_blocks1\.0": tokens(24, 32, before=1),
    },
    module="coat",
    options={
        **SIZED,
        "patch_size": 4,
        "embed_dims": [24, 24, 24, 24],
        "serial_depths": [1, 1, 1, 1],
        "parallel_depth": 2,
        "num_heads": 8,
        "mlp_ratios": [2, 2, 2, 2],
    },
)
timm(
    "ConVit",
    r"blocks\.2\.norm1",
    tokens(6, 6, before=1),
    module="convit",
    options={"img_size": 96, "embed_dim": 48, "depth": 3, "local_up_to_layer": 2, "num_heads": 4},
    image=(3, 96, 96),
    named={"blocks.0": tokens(6, 6)},
)
timm(
    "crossvit_tiny_240",
    r"blocks\.2\.fusion\.1\.norm1",
    tokens(20, 20, before=1),
    options={"img_size": (240, 240)},
    image=(3, 240, 240),
)
timm("deit_tiny_distilled_patch16_224", r"blocks\.1\.norm1", tokens(*PATCHES, before=2), options=TINY)
timm("deit3_small_patch16_224", r"blocks\.1\.norm1", CLASS_FIRST, options=TINY)
timm("efficientformer_l1", "norm", tokens(7, 7), image=(3, 224, 224))
timm("eva02_tiny_patch14_224", "norm", tokens(8, 10, before=1), options=TINY14, image=(3, 112, 140))
timm("vit_base_patch16_dinov3", "norm", tokens(*PATCHES, before=5), options=TINY)
# its attention is sharp: behind it, some tokens see another one's place most
timm("gemma4_vit_167m", r"encoder(\.patch_embed)?", tokens(*PATCHES), options=TINY)
timm(
    "hiera_tiny_224",
    r"blocks\.4",
    tokens(3, 4),
    options={"img_size": SIZE, "embed_dim": 24, "stages": (1, 1, 2, 1)},
    shuffled={"blocks.0": unrolled(24, 32), "blocks.2": unrolled(6, 8)},
)
timm(
    "levit_128s",
    {
        r"stages(\.2.*)?": tokens(2, 2),
        r"stages\.1(\.blocks(\.\d(\.(attn|mlp(\.ln2(\.linear)?)?|drop_path\d))?)?)?": tokens(3, 4),
    },
    options=SIZED,
)
timm(
    "gMLP",
    "norm",
    tokens(*PATCHES),
    module="mlp_mixer",
    options={
        "img_size": SIZE,
        "embed_dim": 48,
        "num_blocks": 2,
        "mlp_ratio": 6,
        "block_layer": "SpatialGatingBlock",
        "mlp_layer": "GatedMlp",
    },
)
timm(
    "MlpMixer",
    "norm",
    tokens(*PATCHES),
    module="mlp_mixer",
    options={"img_size": SIZE, "embed_dim": 48, "num_blocks": 2},
)
timm(
    "ResMLP",
    "norm",
    tokens(*PATCHES),
    module="mlp_mixer",
    options={
        "img_size": SIZE,
        "embed_dim": 48,
        "num_blocks": 2,
        "mlp_ratio": 4,
        "block_layer": "ResBlock",
        "norm_layer": "Affine",
    },
)
timm("mvitv2_tiny", "norm", tokens(7, 7), image=(3, 224, 224))
timm(
    "naflexvit_base_patch16_gap",
    "norm",
    tokens(*PATCHES, before=4),
    options={"embed_dim": 64, "depth": 2, "num_heads": 2},
)
timm("pit_xs_224", r"transformers\.2\.blocks\.3\.norm1", tokens(3, 4, before=1), options=SIZED)
timm("pit_xs_distilled_224", r"transformers\.2\.blocks\.3\.norm1", tokens(3, 4, before=2), options=SIZED)
timm("TNT", r"blocks\.1\.norm_out", CLASS_FIRST, module="tnt", options={"img_size": SIZE, "embed_dim": 48, "depth": 2})
timm(
    "Twins",
    "norm",
    tokens(3, 4),
    module="twins",
    options={
        "img_size": SIZE,
        "patch_size": 4,
        "embed_dims": (16, 32, 48, 64),
        "num_heads": (1, 2, 3, 4),
        "mlp_ratios": (2, 2, 2, 2),
        "depths": (1, 1, 1, 1),
        "sr_ratios": (8, 4, 2, 1),
    },
)
timm(
    "twins_svt_small",
    "norm",
    tokens(3, 4),
    options={"img_size": SIZE, "embed_dims": (16, 32, 48, 64), "depths": (1, 1, 2, 1)},
)
timm(
    "test_vit",
    r"blocks\.5\.norm1",
    CLASS_FIRST,
    options=SIZED,
    named={"blocks.2": CLASS_FIRST, "patch_embed": channels_last},
)
timm("test_vit4", "blocks|norm", CLASS_FIRST, options=SIZED)
timm("vit_base_patch14_reg4_dinov2", r"blocks\.1\.norm1", tokens(8, 10, before=5), options=TINY14, image=(3, 112, 140))
timm("vit_base_patch16_siglip_224", "norm", tokens(*PATCHES), options=TINY)
timm("vit_base_patch16_clip_224", r"blocks\.1\.norm1", CLASS_FIRST, options=TINY)
timm("flexivit_small", r"blocks\.1\.norm1", CLASS_FIRST, options=TINY)
timm("aimv2_large_patch14_224", "norm", tokens(8, 10), options=TINY14, image=(3, 112, 140))
timm("vit_tiny_r_s16_p8_224", r"blocks\.11\.norm1", tokens(3, 4, before=1), options=SIZED)
timm("test_vit_relpos", "norm", tokens(*PATCHES), options=SIZED)
timm("vitamin_small_224", "blocks", tokens(*PATCHES), options=SIZED)
timm(
    "VOLO",
    "aux_head",
    tokens(*PATCHES),
    module="volo",
    options={
        "img_size": SIZE,
        "layers": (1, 1, 1, 1),
        "embed_dims": (24, 48, 48, 48),
        "num_heads": (2, 2, 2, 2),
        "outlook_attention": (True, False, False, False),
    },
)
timm(
    "xcit_nano_12_p16_224",
    {r"cls_attn_blocks\.1\.norm1": CLASS_FIRST, r"blocks\.1": tokens(*PATCHES)},
    options={**SIZED, "depth": 2},
)


# ------------------------------------------------------------------------------------------------------- torchvision


def torchvision(
    name: str,
    last: Rules,
    layout: Layout = channels_first,
    *,
    options: dict[str, Any] | None = None,
    home: str = "models",
    before: Callable[[], object] = import_torchvision,
    **known: Any,
) -> None:
    def build() -> nn.Module:
        before()
        make = getattr(importlib.import_module(f"torchvision.{home}"), name)
        return make(**(options or {}))

    add(f"torchvision {name}", "torchvision", build, last, layout=layout, **known)


PLAIN = {"num_classes": 5}
UNTRAINED = {"weights": None, "weights_backbone": None}

torchvision("alexnet", "features", options=PLAIN)
torchvision("vgg11_bn", "features", options=PLAIN)
torchvision("googlenet", "inception5b", options={**PLAIN, "aux_logits": False, "init_weights": False})
torchvision("inception_v3", "Mixed_7c", options={**PLAIN, "aux_logits": False, "init_weights": False})
torchvision("mobilenet_v2", "features", options=PLAIN)
torchvision("mobilenet_v3_small", "features", options=PLAIN)
torchvision("mnasnet0_5", "layers", options=PLAIN)
torchvision("shufflenet_v2_x0_5", "conv5", options=PLAIN)
torchvision("squeezenet1_1", r"classifier\.2", options=PLAIN)
torchvision("resnet18", "layer4", options=PLAIN)
torchvision("resnext50_32x4d", "layer4", options=PLAIN)
torchvision("regnet_y_400mf", "trunk_output", options=PLAIN)
torchvision("efficientnet_b0", "features", options=PLAIN)
torchvision("densenet121", "features", options=PLAIN)
torchvision("convnext_tiny", "features", options=PLAIN)
SWIN = {**PLAIN, "patch_size": [4, 4], "embed_dim": 12, "depths": [1, 2], "num_heads": [1, 2], "window_size": [4, 4]}
torchvision("SwinTransformer", "permute|norm", home="models.swin_transformer", options=SWIN)
torchvision(
    "VisionTransformer",
    r"encoder\.layers\.encoder_layer_1\.ln_1",
    tokens(6, 6, before=1),
    home="models",
    options={
        **PLAIN,
        "image_size": 96,
        "patch_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 48,
        "mlp_dim": 96,
    },
    image=(3, 96, 96),
)
torchvision(
    "MaxVit",
    r"blocks\.1",
    home="models",
    options={
        **PLAIN,
        "input_size": (64, 64),
        "stem_channels": 16,
        "partition_size": 4,
        "block_channels": [16, 32],
        "block_layers": [1, 1],
        "head_dim": 8,
        "stochastic_depth_prob": 0.0,
    },
    image=(3, 64, 64),
)


def centre(maps: Tensor) -> Tensor:
    """The mean of channel 1 in the middle of the image."""
    middle = maps[(slice(None), 1, *(slice(size // 4, size - size // 4) for size in maps.shape[2:]))]
    return middle.flatten(1).mean(1)


def region(*size: int) -> Pixels:
    """What `centre` reads, as a mask on the input."""
    mask = torch.zeros(size)
    mask[tuple(slice(side // 4, side - side // 4) for side in size)] = 1
    return Pixels(1, mask[None] if len(size) == 3 else mask)


def segments(output: Any) -> Tensor:
    return centre(output["out"])


def segmentation(name: str, last: Rules) -> None:
    torchvision(
        name,
        last,
        home="models.segmentation",
        image=(3, 64, 96),
        options={**UNTRAINED, **PLAIN},
        target=region(64, 96),
        scores=segments,
    )


segmentation("fcn_resnet50", r"classifier\.[123]")
segmentation("deeplabv3_mobilenet_v3_large", r"classifier\.[123]")
segmentation("lraspp_mobilenet_v3_large", r"classifier\.cbr(\..*)?|backbone(\..*)?")


def suppression() -> None:
    """Beside a torch for CPUs alone, torchvision's compiled non-maximum suppression is missing: one in Python."""
    import_torchvision()
    from torchvision import extension
    from torchvision.ops import boxes

    if extension._has_ops() or getattr(boxes.nms, "in_python", False):
        return

    def nms(found: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        left, kept = scores.argsort(descending=True, stable=True), []
        while len(left):
            kept.append(left[0])
            overlap = boxes.box_iou(found[left[:1]], found[left])[0]
            overlap[0] = 1.0
            left = left[overlap <= iou_threshold]
        return torch.stack(kept) if kept else left

    nms.in_python = True
    boxes.nms = nms
    torch.compiler.set_stance("force_eager")  # torchvision compiles its substitute for roi_align, for minutes


def best_box(output: Any) -> Tensor:
    return torch.stack([found["scores"].max() for found in output])


def detector(name: str, last: str, **options: Any) -> None:
    """The levels of the pyramid and what follows them, but for the classes and boxes themselves."""
    known = {"target": best_box, "scores": best_box}
    if name.islower():
        torchvision(
            name, last, home="models.detection", before=suppression, options={**UNTRAINED, **PLAIN, **options}, **known
        )
        return

    def build() -> nn.Module:
        suppression()
        from torchvision.models import detection
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7

        rest = {} if name == "MaskRCNN" else {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
        body = detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None, **rest)
        return getattr(detection, name)(body, **PLAIN, **options)

    add(f"torchvision {name} resnet18", "torchvision", build, last, **known)


RESIZED = {"min_size": 96, "max_size": 128}
PROPOSED = {"box_score_thresh": 0.0, "rpn_pre_nms_top_n_test": 50, "rpn_post_nms_top_n_test": 10}
PYRAMID = r"backbone(\..*)?"
TOWER = rf"{PYRAMID}|head\.classification_head\.conv(\..*)?"
detector("fasterrcnn_mobilenet_v3_large_320_fpn", PYRAMID, **RESIZED, **PROPOSED)
detector("MaskRCNN", PYRAMID, **RESIZED, **PROPOSED)
detector("RetinaNet", TOWER, **RESIZED, score_thresh=0.0)
detector("FCOS", rf"{TOWER}|head\.regression_head\.conv(\..*)?", **RESIZED, score_thresh=0.0)
detector(
    "ssdlite320_mobilenet_v3_large",
    rf"{PYRAMID}|head\.classification_head\.module_list\.\d\.0(\..*)?",
    score_thresh=0.0,
)

CLIP_SHAPE = (3, 4, 32, 40)
torchvision("r3d_18", "layer4", home="models.video", options=PLAIN, image=CLIP_SHAPE)
torchvision("mc3_18", "layer4", home="models.video", options=PLAIN, image=CLIP_SHAPE)
torchvision("r2plus1d_18", "layer4", home="models.video", options=PLAIN, image=CLIP_SHAPE)
torchvision(
    "SwinTransformer3d",
    "norm",
    channels_last,
    home="models.video.swin_transformer",
    options={
        **PLAIN,
        "patch_size": [2, 4, 4],
        "embed_dim": 12,
        "depths": [1, 2],
        "num_heads": [1, 2],
        "window_size": [2, 4, 4],
    },
    image=CLIP_SHAPE,
)


# ------------------------------------------------------------------------------------------------------ transformers


def logit(output: Any) -> Tensor:
    return output.logits[:, 1]


def hugging_face(
    name: str, last: Rules, layout: Layout = channels_first, *, options: dict[str, Any] | None = None, **known: Any
) -> None:
    """A model of transformers by its class, with a small configuration."""

    def build() -> nn.Module:
        import_torchvision()
        import transformers

        kind = getattr(transformers, name)
        given = {key: value() if callable(value) else value for key, value in (options or {}).items()}
        return kind(kind.config_class(**given))

    add(f"transformers {name}", "transformers", build, last, layout=layout, **{"scores": logit, **known})


SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96, "num_labels": 5}
VIT = {**SMALL, "image_size": SIZE, "patch_size": 16}
STAGES = {"embed_dim": 12, "depths": [1, 1, 2], "num_heads": [1, 2, 4], "image_size": SIZE, "num_labels": 5}

hugging_face("ViTForImageClassification", r"vit\.layers\.1\.layernorm_before", CLASS_FIRST, options=VIT)
hugging_face(
    "DeiTForImageClassification", r"deit\.layers\.1\.layernorm_before", tokens(*PATCHES, before=2), options=VIT
)
hugging_face(
    "DeiTForImageClassificationWithTeacher",
    r"deit\.layers\.1\.layernorm_before",
    tokens(*PATCHES, before=2),
    options=VIT,
)
hugging_face("BeitForImageClassification", r"beit(\.(layernorm|layers\.1))?", CLASS_FIRST, options=VIT)
hugging_face(
    "Data2VecVisionForImageClassification",
    r"data2vec_vision(\.(layernorm|layers\.1))?",
    tokens(6, 6, before=1),
    options={**VIT, "image_size": 96},
    image=(3, 96, 96),
)
hugging_face(
    "Dinov2ForImageClassification",
    r"dinov2(\.layernorm)?",
    tokens(6, 6, before=1),
    image=(3, 96, 96),
    options={**VIT, "image_size": 96, "mlp_ratio": 2},
)
hugging_face(
    "Dinov2WithRegistersForImageClassification",
    r"dinov2_with_registers(\.layernorm)?",
    tokens(6, 6, before=5),
    image=(3, 96, 96),
    options={**VIT, "image_size": 96, "mlp_ratio": 2, "num_register_tokens": 4},
)
hugging_face("ViTMSNForImageClassification", r"vit\.layers\.1\.layernorm_before", CLASS_FIRST, options=VIT)
hugging_face("IJepaForImageClassification", r"ijepa(\.layernorm)?", tokens(*PATCHES), options=VIT)
hugging_face("SwinForImageClassification", r"swin(\.(layernorm))?", tokens(6, 8), options={**STAGES, "window_size": 4})
hugging_face(
    "Swinv2ForImageClassification", r"swinv2(\.(layernorm))?", tokens(6, 8), options={**STAGES, "window_size": 4}
)
hugging_face(
    "DonutSwinForImageClassification", r"donut(\.(encoder))?", tokens(6, 8), options={**STAGES, "window_size": 4}
)
hugging_face(
    "ConvNextForImageClassification",
    r"convnext(\.(encoder))?",
    options={"hidden_sizes": [12, 24, 32, 48], "depths": [1, 1, 2, 1], "num_labels": 5},
)
hugging_face(
    "ConvNextV2ForImageClassification",
    r"convnextv2(\.(encoder))?",
    options={"hidden_sizes": [12, 24, 32, 48], "depths": [1, 1, 2, 1], "num_labels": 5},
)
hugging_face(
    "ResNetForImageClassification",
    r"resnet(\.(encoder))?",
    options={
        "embedding_size": 16,
        "hidden_sizes": [16, 32, 48, 64],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "num_labels": 5,
    },
)
hugging_face(
    "RegNetForImageClassification",
    r"regnet(\.(encoder))?",
    options={
        "embedding_size": 16,
        "hidden_sizes": [16, 32, 48, 64],
        "depths": [1, 1, 1, 1],
        "groups_width": 8,
        "num_labels": 5,
    },
)
hugging_face(
    "BitForImageClassification",
    r"bit(\.(norm))?",
    options={
        "num_groups": 8,
        "embedding_size": 32,
        "hidden_sizes": [32, 64, 96, 128],
        "depths": [1, 1, 1, 1],
        "num_labels": 5,
    },
)
hugging_face(
    "CvtForImageClassification",
    r"cvt\.encoder\.stages\.2\.layers\.2\.layernorm_before",
    tokens(6, 8, before=1),
    options={"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3], "num_labels": 5},
)
hugging_face(
    "FocalNetForImageClassification",
    r"focalnet(\.(layernorm))?",
    tokens(6, 8),
    options={
        "image_size": SIZE,
        "embed_dim": 12,
        "hidden_sizes": [12, 24, 48],
        "depths": [1, 1, 1],
        "focal_levels": [1, 1, 1],
        "focal_windows": [3, 3, 3],
        "num_labels": 5,
    },
)
hugging_face(
    "HieraForImageClassification",
    r"hiera(\.(encoder))?",
    tokens(3, 4),
    options={
        "image_size": list(SIZE),
        "embed_dim": 16,
        "depths": [1, 1, 2, 1],
        "num_heads": [1, 2, 4, 8],
        "num_labels": 5,
    },
)
hugging_face(
    "LevitForImageClassification",
    {
        r"levit(\.encoder)?": tokens(2, 2),
        r"levit\.encoder\.stages\.0\.layers\.\d(\.module\.linear_down(\.linear)?)?": tokens(6, 6),
    },
    options={
        "image_size": 96,
        "hidden_sizes": [32, 48, 64],
        "num_attention_heads": [2, 3, 4],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
        "num_labels": 5,
    },
    image=(3, 96, 96),
)
hugging_face(
    "MobileViTForImageClassification",
    r"mobilevit(\.conv_1x1_exp(\..*)?)?",
    options={
        "hidden_sizes": [24, 32, 48],
        "neck_hidden_sizes": [8, 16, 16, 24, 32, 48, 64],
        "num_attention_heads": 2,
        "num_labels": 5,
    },
)
hugging_face(
    "MobileNetV1ForImageClassification",
    r"mobilenet_v1(\.(layer\.25))?",
    options={"depth_multiplier": 0.25, "num_labels": 5},
)
hugging_face(
    "MobileNetV2ForImageClassification",
    r"mobilenet_v2(\.(conv_1x1))?",
    options={"depth_multiplier": 0.35, "num_labels": 5},
)
hugging_face(
    "EfficientNetForImageClassification",
    r"efficientnet(\.(encoder))?",
    options={"width_coefficient": 0.3, "depth_coefficient": 0.5, "hidden_dim": 384, "num_labels": 5},
)
hugging_face(
    "PoolFormerForImageClassification",
    "norm",
    options={"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1], "num_labels": 5},
)
hugging_face(
    "PvtForImageClassification",
    r"pvt\.encoder\.block\.3\.0\.layer_norm_1",
    tokens(3, 3, before=1),
    options={
        "image_size": 96,
        "hidden_sizes": [16, 24, 32, 48],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 3],
        "num_labels": 5,
    },
    image=(3, 96, 96),
)
hugging_face(
    "PvtV2ForImageClassification",
    r"pvt_v2(\.encoder)?",
    options={
        "image_size": 96,
        "hidden_sizes": [16, 24, 32, 48],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 3],
        "num_labels": 5,
    },
)
hugging_face(
    "SegformerForImageClassification",
    r"segformer(\.encoder)?",
    options={
        "hidden_sizes": [16, 24, 32, 48],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 3],
        "num_labels": 5,
    },
)
hugging_face(
    "SwiftFormerForImageClassification",
    "norm",
    options={"embed_dims": [16, 24, 32, 48], "depths": [1, 1, 1, 1], "num_labels": 5},
)
hugging_face(
    "SiglipForImageClassification",
    r"vision_model(\.post_layernorm)?",
    tokens(6, 6),
    options={"vision_config": {**VIT, "image_size": 96}, "num_labels": 5},
    image=(3, 96, 96),
)
hugging_face(
    "CLIPForImageClassification",
    r"vision_model(\.encoder)?|vision_model\.encoder\.layers\.1",
    tokens(6, 6, before=1),
    options={"vision_config": {**VIT, "image_size": 96}, "num_labels": 5},
    image=(3, 96, 96),
)
hugging_face(
    "PerceiverForImageClassificationLearned",
    r"perceiver\.input_preprocessor|perceiver\.encoder\.cross_attention\.attention\.self\.layernorm2",
    tokens(32, 32),
    options={
        "image_size": 32,
        "num_latents": 16,
        "d_latents": 32,
        "d_model": 64,
        "num_blocks": 1,
        "num_self_attends_per_block": 1,
        "num_self_attention_heads": 2,
        "num_cross_attention_heads": 1,
        "num_labels": 5,
    },
    image=(3, 32, 32),
)

TEXT = {
    **SMALL,
    "vocab_size": 99,
    "max_position_embeddings": 16,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "pad_token_id": 0,
}
WORDS = torch.tensor([[1, 5, 6, 2], [1, 7, 8, 2], [1, 9, 4, 2], [1, 3, 8, 2]])


def with_words() -> dict[str, Any]:
    from deepviz import shared

    return {"input_ids": shared(WORDS)}


def beside_words(model: nn.Module, images: Tensor) -> Any:
    return model(pixel_values=images, input_ids=WORDS)


def second_text(output: Any) -> Tensor:
    return output.logits_per_image[:, 1]


PAIRED = {
    "x": lambda images: {"pixel_values": images},
    "extra": with_words,
    "call": beside_words,
    "target": second_text,
    "scores": second_text,
}
hugging_face(
    "CLIPModel",
    r"vision_model\.encoder\.layers\.1\.layer_norm1",
    tokens(6, 6, before=1),
    options={"vision_config": {**VIT, "image_size": 96}, "text_config": TEXT, "projection_dim": 32},
    image=(3, 96, 96),
    **PAIRED,
)
hugging_face(
    "SiglipModel",
    r"vision_model(\.post_layernorm)?",
    tokens(6, 6),
    options={"vision_config": {**VIT, "image_size": 96}, "text_config": TEXT},
    image=(3, 96, 96),
    **PAIRED,
)


def box(output: Any) -> Tensor:
    return output.logits[:, 3, 1]


def small_resnet() -> Any:
    import transformers

    return transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )


DETR = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_config": small_resnet,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 12,
    "num_labels": 5,
}
hugging_face(
    "DetrForObjectDetection",
    r"model\.encoder(\.layers\.1(\.(mlp|activation|final|fc).*)?)?",
    tokens(3, 4),
    options=DETR,
    target=box,
    scores=box,
)
hugging_face(
    "ConditionalDetrForObjectDetection",
    r"model\.encoder(\.layers\.1(\.(mlp|activation|final|fc).*)?)?",
    tokens(3, 4),
    options=DETR,
    target=box,
    scores=box,
)
hugging_face(
    "YolosForObjectDetection",
    r"vit\.encoder\.layer\.1\.layernorm_before|vit\.layers\.1\.layernorm_before",
    tokens(*PATCHES, before=1, after=10),
    options={**VIT, "image_size": SIZE, "num_detection_tokens": 10},
    target=box,
    scores=box,
)


def pixels(output: Any) -> Tensor:
    return centre(output.logits)


SEGFORMER = {
    "hidden_sizes": [16, 24, 32, 48],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 3],
    "decoder_hidden_size": 32,
    "num_labels": 5,
}
hugging_face(
    "SegformerForSemanticSegmentation",
    r"decode_head\.(activation|dropout|batch_norm)",
    options=SEGFORMER,
    target=region(96, 128),
    scores=pixels,
)


def depth(output: Any) -> Tensor:
    return output.predicted_depth.flatten(1).mean(1)


hugging_face(
    "GLPNForDepthEstimation",
    r"head\.head\.[01]|decoder(\..*)?",
    options={
        "hidden_sizes": [16, 24, 32, 48],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 3],
        "decoder_hidden_size": 16,
    },
    target=Output("predicted_depth", at=(0, 0, 128, 96)),
    scores=depth,
)


class Spectrogram(nn.Module):
    """(N, 1, time, frequency) for a model that takes (N, time, frequency)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x[:, 0])


def audio_transformer() -> nn.Module:
    import_torchvision()
    import transformers

    config = transformers.ASTConfig(**SMALL, max_length=96, num_mel_bins=64)
    return Spectrogram(transformers.ASTForAudioClassification(config))


def turned(layout: Layout) -> Layout:
    """The tokens run over frequency, then time; the image over time, then frequency."""
    return lambda values: layout(values).transpose(2, 3)


add(
    "transformers ASTForAudioClassification",
    "transformers",
    audio_transformer,
    r"model\.audio_spectrogram_transformer\.layers\.1\.layernorm_before",
    layout=turned(tokens(5, 9, before=2)),
    image=(1, 96, 64),
    scores=logit,
)

FRAMES = {**VIT, "image_size": 32, "patch_size": 8, "num_frames": 4, "tubelet_size": 2}


def space_then_time(frames: int, h: int, w: int) -> Layout:
    """A class token, then for each patch its frames."""
    lay = tokens(h, w, frames, before=1)
    return lambda values: lay(values).permute(0, 1, 4, 2, 3)


class ChannelsFirst(nn.Module):
    """(N, C, T, H, W) for a model that takes (N, T, C, H, W)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x.transpose(1, 2))


def clip_model(name: str, last: Rules, layout: Layout = channels_first, **options: Any) -> None:
    """Alone, its frames stand where channels are expected; behind a wrapper that turns them, it is like any other."""

    def build() -> nn.Module:
        import_torchvision()
        import transformers

        kind = getattr(transformers, name)
        return kind(kind.config_class(**{**FRAMES, **options}))

    turned = "it takes (N, frames, channels, h, w): wrap it to take (N, channels, frames, h, w)"
    refused = {"default layer": turned}
    add(f"transformers {name}", "transformers", build, {}, image=(4, 3, 32, 32), scores=logit, refused=refused)
    add(
        f"transformers {name}, channels first",
        "transformers",
        lambda: ChannelsFirst(build()),
        last,
        layout=layout,
        image=(3, 4, 32, 32),
        scores=logit,
    )


clip_model(
    "VideoMAEForVideoClassification", r"model\.videomae(\.(encoder|layernorm|encoder\.layer\.1))?", tokens(2, 4, 4)
)
clip_model("TimesformerForVideoClassification", r"model\.timesformer\.encoder\.layer\.0", space_then_time(4, 4, 4))
clip_model(
    "VivitForVideoClassification",
    r"model\.vivit\.layers\.1\.layernorm_before",
    tokens(2, 4, 4, before=1),
    tubelet_size=[2, 8, 8],
)


# ------------------------------------------------------------------------------------------- open_clip, and the like


def open_clip(
    name: str,
    last: Rules,
    layout: Layout = channels_first,
    *,
    image: tuple[int, ...] = (3, 96, 128),
    vision: dict[str, Any],
    **known: Any,
) -> None:
    def build() -> nn.Module:
        import_torchvision()
        import open_clip

        text = {"context_length": 4, "vocab_size": 99, "width": 32, "heads": 2, "layers": 2}
        return open_clip.CLIP(
            embed_dim=32,
            vision_cfg={"image_size": image[1] if image[1] == image[2] else image[1:], **vision},
            text_cfg=text,
        )

    def extra() -> tuple[Any, ...]:
        from deepviz import shared

        return (shared(WORDS),)

    def similarity(output: Any) -> Tensor:
        return (output[0] @ output[1].T)[:, 1]

    add(
        f"open_clip {name}",
        "open_clip",
        build,
        last,
        layout=layout,
        image=image,
        extra=extra,
        call=lambda model, images: model(images, WORDS),
        target=similarity,
        scores=similarity,
        **known,
    )


open_clip(
    "ViT",
    r"visual\.transformer\.resblocks\.1\.ln_1",
    CLASS_FIRST,
    vision={"patch_size": 16, "width": 64, "layers": 2, "head_width": 32},
)
open_clip("ModifiedResNet", r"visual\.layer4", vision={"layers": (1, 1, 1, 1), "width": 16}, image=(3, 96, 96))


class SequenceFirst(nn.Module):
    """As in OpenAI's CLIP: the transformer takes (L, N, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 16, 16)
        self.cls = nn.Parameter(torch.randn(1, 1, 32))
        self.position = nn.Parameter(torch.randn(49, 1, 32) / 3)
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.1, norm_first=True)
        self.transformer = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).permute(2, 0, 1)
        x = torch.cat([self.cls.expand(-1, x.shape[1], -1), x]) + self.position
        return self.head(self.transformer(x)[0])


add(
    "torch TransformerEncoder, sequence first",
    "torch",
    SequenceFirst,
    r"transformer\.layers\.1\.norm1",
    layout=sequence_first(*PATCHES, before=1),
    named={"transformer.layers.0": sequence_first(*PATCHES, before=1)},
)


def ultralytics(
    name: str,
    kind: str = "DetectionModel",
    *,
    head: int,
    nc: int = 5,
    scores: Callable[[Any], Tensor],
    rule: str = "",
    **known: Any,
) -> None:
    """All but the last convolutions of the head, which give the classes and boxes."""
    earlier = "|".join(map(str, range(head)))
    last = rf"model\.({earlier})(\..*)?|model\.{head}\.(cv2|cv3|cv4)\.\d\.[01](\..*)?"
    last = rule or last

    def build() -> nn.Module:
        import_torchvision()
        os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=tempfile.gettempdir())
        from ultralytics.nn import tasks

        return getattr(tasks, kind)(f"{name}.yaml", ch=3, nc=nc, verbose=False)

    add(f"ultralytics {name}", "ultralytics", build, last, **{"target": scores, "scores": scores, **known})


def anchors(output: Any) -> Tensor:
    """The best score of class 1 over all anchors, (N, 4 + classes, anchors)."""
    return output[0][:, 5].amax(1)


def first_logit(output: Any) -> Tensor:
    return output[1][:, 1]


ultralytics("yolov5n", head=24, scores=anchors)
ultralytics("yolov8n", head=22, scores=anchors, nc=80)
ultralytics("yolo11n", head=23, scores=anchors, nc=80)
ultralytics("yolo12n", head=21, scores=anchors)
ultralytics(
    "yolov8n-seg",
    "SegmentationModel",
    head=22,
    scores=lambda output: output[0][0][:, 5].amax(1) if isinstance(output[0], tuple) else output[0][:, 5].amax(1),
)
ultralytics("yolov8n-cls", "ClassificationModel", head=9, scores=first_logit, rule=r"model\.9\.conv(\..*)?")


def segmenter(name: str, encoder: str = "resnet18", **options: Any) -> None:
    def build() -> nn.Module:
        import_timm()
        import segmentation_models_pytorch

        return getattr(segmentation_models_pytorch, name)(encoder, encoder_weights=None, classes=3, **options)

    add(
        f"segmentation-models-pytorch {name} {encoder}",
        "segmentation_models_pytorch",
        build,
        r"decoder(\..*)?",
        image=(3, 64, 96),
        target=region(64, 96),
        scores=centre,
    )


segmenter("Unet")
segmenter("UnetPlusPlus")
segmenter("FPN")
segmenter("PSPNet")
segmenter("DeepLabV3Plus")
segmenter("MAnet")
segmenter("Segformer", "mit_b0")
segmenter("Unet", "efficientnet-b0")


def volumes(
    name: str,
    last: Rules,
    layout: Layout = channels_first,
    *,
    image: tuple[int, ...] = (1, 32, 48, 32),
    scores: Callable[[Any], Tensor] | None = None,
    home: str = "monai.networks.nets",
    **options: Any,
) -> None:
    def build() -> nn.Module:
        import_torchvision()
        return getattr(importlib.import_module(home), name)(**options)

    asked = region(*image[1:]) if scores is centre else scores
    known = {} if scores is None else {"target": asked, "scores": scores}
    add(f"MONAI {name}", "monai", build, last, layout=layout, image=image, **known)


volumes(
    "DenseNet",
    {"features": channels_first, r"features\..*": channels_first},
    init_features=16,
    growth_rate=8,
    block_config=(2, 2, 2, 2),
    spatial_dims=3,
    in_channels=1,
    out_channels=5,
)
volumes("resnet10", "layer4", widen_factor=0.25, conv1_t_stride=2, spatial_dims=3, n_input_channels=1, num_classes=5)
volumes("SEResNet50", "layer4", layers=(1, 1, 1, 1), spatial_dims=3, in_channels=1, num_classes=5)
volumes(
    "EfficientNetBN",
    {r"_conv_head|_bn1|_swish": channels_first, r"_blocks\..*": channels_first},
    model_name="efficientnet-b0",
    pretrained=False,
    spatial_dims=3,
    in_channels=1,
    num_classes=5,
)
volumes(
    "UNet",
    r"model\.[01](\..*)?",
    spatial_dims=3,
    in_channels=1,
    out_channels=3,
    channels=(8, 16, 32),
    strides=(2, 2),
    scores=centre,
)
volumes(
    "SegResNet",
    # `act_mod` is the rectifier of `conv_final`, registered twice
    r"act_mod|up_layers\..*",
    spatial_dims=3,
    init_filters=4,
    in_channels=1,
    out_channels=3,
    blocks_down=(1, 1, 1),
    blocks_up=(1, 1),
    norm=("GROUP", {"num_groups": 2}),
    scores=centre,
)
volumes(
    "UNETR",
    r"decoder2(\..*)?",
    in_channels=1,
    out_channels=3,
    img_size=(32, 48, 32),
    feature_size=4,
    hidden_size=48,
    mlp_dim=96,
    num_heads=2,
    scores=centre,
)
volumes(
    "SwinUNETR",
    r"decoder1(\..*)?",
    image=(1, 32, 64, 32),
    in_channels=1,
    out_channels=3,
    feature_size=12,
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 2, 4),
    scores=centre,
)


def first_output(output: Any) -> Tensor:
    return output[0][:, 1]


volumes(
    "ViT",
    r"blocks\.1\.norm1",
    tokens(4, 6, 4, before=1),
    in_channels=1,
    img_size=(32, 48, 32),
    patch_size=(8, 8, 8),
    hidden_size=48,
    mlp_dim=96,
    num_layers=2,
    num_heads=2,
    num_classes=5,
    classification=True,
    post_activation="",
    scores=first_output,
)


# ------------------------------------------------------------------------------------------- one box of a detector

PLACE = (40.0, 30.0, 90.0, 80.0)


def one_box(output: Any) -> Tensor:
    """The highest logit of class 1 of the candidates that overlap a place by at least 0.9 of the most that any does."""
    found = []
    for boxes, logits, scores in zip(output.boxes, output.logits, output.scores, strict=True):
        of_class = boxes if boxes.ndim == 2 else boxes[:, 1]
        shares = []
        for (left, top, right, bottom), score in zip(of_class.tolist(), scores.amax(1).tolist(), strict=True):
            across = max(0.0, min(right, PLACE[2]) - max(left, PLACE[0]))
            down = max(0.0, min(bottom, PLACE[3]) - max(top, PLACE[1]))
            area = max(0.0, right - left) * max(0.0, bottom - top)
            both = (PLACE[2] - PLACE[0]) * (PLACE[3] - PLACE[1]) + area - across * down
            shares.append(across * down / both if score > 0 else -1.0)
        near = [place for place, share in enumerate(shares) if share >= 0.9 * max(shares) and share >= 0]
        found.append(logits[near, 1].max())
    return torch.stack(found)


def box_of(name: str, last: Rules | None = None) -> None:
    """A detector that is here already, as DeepViz reads its output."""
    known = next(one for one in ARCHITECTURES if one.name == name)

    def build() -> nn.Module:
        found = known_model(known.build())
        assert found is not None
        return found.module

    target = Detection(1, PLACE)
    ARCHITECTURES.append(
        replace(
            known,
            name=f"{name}, one box",
            build=build,
            last=last or known.last,
            target=target,
            scores=one_box,
            named={},
        )
    )


for each in (
    "torchvision fasterrcnn_mobilenet_v3_large_320_fpn",
    "torchvision MaskRCNN resnet18",
    "torchvision RetinaNet resnet18",
    "torchvision FCOS resnet18",
    "torchvision ssdlite320_mobilenet_v3_large",
    "transformers DetrForObjectDetection",
    "transformers ConditionalDetrForObjectDetection",
    "transformers YolosForObjectDetection",
    "ultralytics yolov8n",
    "ultralytics yolo11n",
    "ultralytics yolo12n",
):
    box_of(each)
