"""Others' names for the layers of ConvNeXt and ViT: rows of `layouts.py`.

A name with `=` names tensors one by one, by our variables: `kernel=in_proj_weight,bias=in_proj_bias`. Several with `+`
are the parts of one of ours, along the first axis there.
"""

from collections.abc import Mapping

from resnet_keras.models.layer_norm_specs import CONVNEXT_SIZES
from resnet_keras.models.weights.weight_layers import HEAD, WeightLayers

Rows = Mapping[str, tuple[str, ...]]
BLOCK = r"stage(?P<s>\d+)_block(?P<b>\d+)"
KERAS_PREFIXES = ("", *(f"convnext_{size}_" for size in (*CONVNEXT_SIZES, "xlarge")))
TIMM_TOKENS = "class_token=cls_token,positions=pos_embed"


def torchvision_convnext(network: WeightLayers) -> Rows:
    """Its `features` are the stem, a stage, what halves, a stage, ..."""
    rows: dict[str, tuple[str, ...]] = {"stem/conv": ("features.0.0",), "stem/norm": ("features.0.1",)}
    for stage in range(1, 1 + _stages(network)):
        halving, blocks = f"features.{2 * stage - 2}.", f"features.{2 * stage - 1}.{{b0}}."
        rows |= {
            rf"stage{stage}_downsample/norm": (halving + "0",),
            rf"stage{stage}_downsample/conv": (halving + "1",),
        }
        block = rf"stage{stage}_block(?P<b>\d+)"
        parts = {"depthwise": "block.0", "norm": "block.2", "expand": "block.3", "project": "block.5"}
        rows |= {f"{block}/{ours}": (blocks + theirs,) for ours, theirs in parts.items()}
        rows[f"{block}/scale"] = (f"gamma={blocks}layer_scale",)
    return {**rows, "head_norm": ("classifier.0",), HEAD: ("classifier.2",)}


def timm_convnext(network: WeightLayers) -> Rows:
    """timm's, and behind them the authors' own (facebookresearch/ConvNeXt, models/convnext.py)."""
    block, authors = "stages.{s0}.blocks.{b0}.", "stages.{s0}.{b0}."
    return {
        "stem/conv": ("stem.0", "downsample_layers.0.0"),
        "stem/norm": ("stem.1", "downsample_layers.0.1"),
        r"stage(?P<s>\d+)_downsample/norm": ("stages.{s0}.downsample.0", "downsample_layers.{s0}.0"),
        r"stage(?P<s>\d+)_downsample/conv": ("stages.{s0}.downsample.1", "downsample_layers.{s0}.1"),
        BLOCK + "/depthwise": (block + "conv_dw", authors + "dwconv"),
        BLOCK + "/norm": (block + "norm", authors + "norm"),
        BLOCK + "/expand": (block + "mlp.fc1", authors + "pwconv1"),
        BLOCK + "/project": (block + "mlp.fc2", authors + "pwconv2"),
        BLOCK + "/scale": (f"gamma={block}gamma", f"gamma={authors}gamma"),
        "head_norm": ("head.norm", "norm"),
        HEAD: ("head.fc", "head"),
    }


def torchvision_vit(network: WeightLayers) -> Rows:
    block = "encoder.layers.encoder_layer_{b0}."
    attention = block + "self_attention."
    return {
        "stem/conv": ("conv_proj",),
        "stem/tokens": ("class_token=class_token,positions=encoder.pos_embedding",),
        BLOCK + "/attention/norm": (block + "ln_1",),
        BLOCK + "/attention/qkv": (f"kernel={attention}in_proj_weight,bias={attention}in_proj_bias",),
        BLOCK + "/attention/project": (attention + "out_proj",),
        BLOCK + "/mlp/norm": (block + "ln_2",),
        BLOCK + "/mlp/expand": (block + "mlp.0", block + "mlp.linear_1"),  # the latter in older files
        BLOCK + "/mlp/project": (block + "mlp.3", block + "mlp.linear_2"),
        "final_norm": ("encoder.ln",),
        HEAD: ("heads.head",),
    }


def timm_vit(network: WeightLayers) -> Rows:
    """timm's, and for LayerScale also those of DeiT III's authors (facebookresearch/deit, models_v2.py)."""
    block = "blocks.{b0}."
    return {
        "stem/conv": ("patch_embed.proj",),
        "stem/tokens": (TIMM_TOKENS,),
        BLOCK + "/attention/norm": (block + "norm1",),
        BLOCK + "/attention/qkv": (block + "attn.qkv",),
        BLOCK + "/attention/project": (block + "attn.proj",),
        BLOCK + "/attention/scale": block_scale(block, 1),
        BLOCK + "/mlp/norm": (block + "norm2",),
        BLOCK + "/mlp/expand": (block + "mlp.fc1",),
        BLOCK + "/mlp/project": (block + "mlp.fc2",),
        BLOCK + "/mlp/scale": block_scale(block, 2),
        "final_norm": ("norm",),
        HEAD: ("head",),
    }


def transformers_convnext(network: WeightLayers) -> Rows:
    stage = "encoder.stages.{s0}."
    block = stage + "layers.{b0}."
    parts = {"depthwise": "dwconv", "norm": "layernorm", "expand": "pwconv1", "project": "pwconv2"}
    return {
        "stem/conv": ("embeddings.patch_embeddings",),
        "stem/norm": ("embeddings.layernorm",),
        r"stage(?P<s>\d+)_downsample/norm": (stage + "downsampling_layer.0",),
        r"stage(?P<s>\d+)_downsample/conv": (stage + "downsampling_layer.1",),
        **{f"{BLOCK}/{ours}": (block + theirs,) for ours, theirs in parts.items()},
        BLOCK + "/scale": (f"gamma={block}layer_scale_parameter",),
        "head_norm": ("layernorm",),
        HEAD: ("classifier",),
    }


def transformers_vit(network: WeightLayers) -> Rows:
    """The names of transformers 5, and behind them those of version 4, which files on the Hub have.

    Queries, keys and values are apart there.
    """
    new, old = "layers.{b0}.", "encoder.layer.{b0}."
    apart = [f"{new}attention.{part}_proj" for part in "qkv"]
    before = [f"{old}attention.attention.{part}" for part in ("query", "key", "value")]
    return {
        "stem/conv": ("embeddings.patch_embeddings.projection",),
        "stem/tokens": ("class_token=embeddings.cls_token,positions=embeddings.position_embeddings",),
        BLOCK + "/attention/norm": (new + "layernorm_before", old + "layernorm_before"),
        BLOCK + "/attention/qkv": (_joined(apart), _joined(before)),
        BLOCK + "/attention/project": (new + "attention.o_proj", old + "attention.output.dense"),
        BLOCK + "/mlp/norm": (new + "layernorm_after", old + "layernorm_after"),
        BLOCK + "/mlp/expand": (new + "mlp.fc1", old + "intermediate.dense"),
        BLOCK + "/mlp/project": (new + "mlp.fc2", old + "output.dense"),
        "final_norm": ("layernorm",),
        HEAD: ("classifier",),
    }


def _joined(layers: list[str]) -> str:
    """The name of a dense layer whose outputs are those of several of torch's, one after the other."""
    names = {"kernel": "weight", "bias": "bias"}
    return ",".join(f"{ours}={'+'.join(f'{layer}.{theirs}' for layer in layers)}" for ours, theirs in names.items())


def keras_applications_convnext(network: WeightLayers) -> Rows:
    """Its layers have the network's name before theirs, which models leave out here and files of it do not.

    What halves the maps are networks within it, whose names files may have, too.
    """
    block = "stage_{s0}_block_{b0}_"
    parts = {"depthwise": "depthwise_conv", "norm": "layernorm", "expand": "pointwise_conv_1"}
    parts |= {"project": "pointwise_conv_2"}
    names = {f"{BLOCK}/{ours}": ("", block + theirs) for ours, theirs in parts.items()}
    names |= {HEAD: ("", "head_dense")}
    for part, theirs in (("conv", "conv"), ("norm", "layernorm")):
        names[f"stem/{part}"] = ("stem", f"stem_{theirs}")
        for at in range(_stages(network) - 1):
            names[f"stage{at + 2}_downsample/{part}"] = (f"downsampling_block_{at}", f"downsampling_{theirs}_{at}")
    rows: dict[str, tuple[str, ...]] = {}
    for ours, (around, name) in names.items():
        within = [f"{prefix}{around}/{prefix}{name}" for prefix in KERAS_PREFIXES if around]
        rows[ours] = (*(prefix + name for prefix in KERAS_PREFIXES), *within)
    rows["head_norm"] = (*(f"{prefix}head_layernorm" for prefix in KERAS_PREFIXES), "layer_normalization")
    rows[BLOCK + "/scale"] = tuple(f"gamma={prefix}{block}layer_scale/kernel" for prefix in KERAS_PREFIXES)
    return rows


def block_scale(block: str, number: int) -> tuple[str, str]:
    """The names of LayerScale's gammas, of timm and of DeiT III's authors."""
    return f"gamma={block}ls{number}.gamma", f"gamma={block}gamma_{number}"


def _stages(network: WeightLayers) -> int:
    return max((int(path[5 : path.index("_")]) for path in network.by_path if path.startswith("stage")), default=0)
