"""`config.json` of a published network: timm's fields, and a field of ours that timm does not look at."""

from collections.abc import Mapping
from typing import Any

from resnet_keras.config.run_folder import MODEL, PUBLISHED
from resnet_keras.models.card import ModelCard
from resnet_keras.models.weights.hub import TENSORS
from resnet_keras.publishing.tensors import Tensors
from resnet_keras.version import __version__

FORMAT_VERSION = 1


def config_file(
    card: ModelCard, tensors: Tensors | None, shape: tuple[int, ...], classes: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of `config.json`.

    Args:
        card: of the published model.
        tensors: what goes into `model.safetensors`; None where there is no such file.
        shape: height, width and channels of the images.
        classes: of the head.
        options: by which the network differs from its name's.
    """
    labels, descriptions = card.label_ids or card.labels, dict(zip(card.label_ids, card.labels, strict=False))
    card = tensors.card if tensors else card
    height, width, channels = shape
    each = channels if len(card.mean) == 1 else 1
    use = {
        "tag": card.recipe,
        "custom_load": False,
        "input_size": [channels, height, width],
        "fixed_input_size": False,
        "interpolation": card.interpolation,
        "crop_pct": card.crop,
        "crop_mode": "center",
        "mean": list(card.mean * each),
        "std": list(card.std * each),
        "num_classes": classes,
        "pool_size": None,
        "first_conv": tensors and tensors.first,
        "classifier": tensors and tensors.head,
        **({"license": card.license} if card.license else {}),
    }
    return {
        # A name with a dot is none of timm's, so that timm says so instead of building another network.
        "architecture": (tensors and tensors.timm) or f"{PUBLISHED}.{card.network or 'model'}",
        "num_classes": classes,
        **({"num_features": tensors.features, "global_pool": "avg"} if tensors else {}),
        **({"label_names": list(labels)} if labels else {}),
        **({"label_descriptions": descriptions} if descriptions else {}),
        "pretrained_cfg": use,
        PUBLISHED: {
            "format_version": FORMAT_VERSION,
            "version": __version__,
            "network": card.network,
            "options": dict(options),
            "weights": TENSORS if tensors else MODEL,
        },
    }
