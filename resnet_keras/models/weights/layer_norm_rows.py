"""Others' names for the layers of ConvNeXt and ViT: rows of `layouts.py`.

A name with `=` names tensors one by one, by our variables: `kernel=in_proj_weight,bias=in_proj_bias`.
"""

from collections.abc import Mapping

from resnet_keras.models.weights.weight_layers import HEAD, WeightLayers

Rows = Mapping[str, tuple[str, ...]]
BLOCK = r"stage(?P<s>\d+)_block(?P<b>\d+)"
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


def block_scale(block: str, number: int) -> tuple[str, str]:
    """The names of LayerScale's gammas, of timm and of DeiT III's authors."""
    return f"gamma={block}ls{number}.gamma", f"gamma={block}gamma_{number}"


def _stages(network: WeightLayers) -> int:
    return max((int(path[5 : path.index("_")]) for path in network.by_path if path.startswith("stage")), default=0)
