"""Weights on the Hugging Face Hub, with the card of their use."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_keras.config.run_folder import MODEL, PUBLISHED
from resnet_keras.errors import UsageError, reason
from resnet_keras.models.card import ModelCard, imagenet_classes
from resnet_keras.models.downloads import NAME, SCHEME, Repository, repository_of
from resnet_keras.models.weights.reading import READERS, Weights, read_weights

TENSORS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
TORCHVISION = {
    "densenet121": 0.74434,
    "densenet161": 0.77138,
    "densenet169": 0.756,
    "densenet201": 0.76896,
    "resnet18": 0.69758,
    "resnet34": 0.73314,
    "resnet50": 0.7613,
    "resnet101": 0.77374,
    "resnet152": 0.78312,
    "resnext50_32x4d": 0.77618,
    "resnext101_32x8d": 0.79312,
    "resnext101_64x4d": 0.83246,
    "vgg11": 0.6902,
    "vgg11_bn": 0.7037,
    "vgg13": 0.69928,
    "vgg13_bn": 0.71586,
    "vgg16": 0.71592,
    "vgg16_bn": 0.7336,
    "vgg19": 0.72376,
    "vgg19_bn": 0.74218,
    "wide_resnet50_2": 0.78468,
    "wide_resnet101_2": 0.78848,
}
"""Top-1 accuracies on ImageNet that torchvision's own table of weights states."""
CLAIMS: Mapping[str, float] = {
    **{f"timm/{name}.tv_in1k": accuracy for name, accuracy in TORCHVISION.items()},
    # Wightman et al. 2021, Table 1
    "timm/resnet50.a1_in1k": 0.804,
    "timm/resnet50.a2_in1k": 0.798,
    "timm/resnet50.a3_in1k": 0.781,
}


def is_hub_name(source: Any) -> bool:
    """Whether a source is a name such as "timm/resnet50.a1_in1k", and no file or folder here, or begins with hf://."""
    if not isinstance(source, str):
        return False
    if source.startswith(SCHEME) or not re.fullmatch(NAME, source):
        return source.startswith(SCHEME)
    path = Path(source)
    if path.suffix.lower() in {*READERS, ".keras"}:
        return False
    return not path.exists() and (source.startswith("timm/") or not path.parent.is_dir())


def fetch(source: str) -> Weights:
    """The weights of a Hub repository, from its cache where they are there, and their card.

    Raises `UsageError` for a name that is not there, no network, or a file that is not what the Hub has.
    """
    config, repository = (repository_of(source) or Repository(source)).json(CONFIG)
    name, where = repository.name, source.removeprefix(SCHEME)
    if isinstance(config, dict) and isinstance(published := config.get(PUBLISHED), dict):
        weights = read_weights(repository.file(MODEL if published.get("weights") == MODEL else TENSORS))
        known = weights.card and dataclasses.replace(weights.card, source=f"https://huggingface.co/{name}")
        return dataclasses.replace(weights, where=where, card=known)
    file = repository.file(TENSORS)
    try:
        card = _timm_card(config) if "pretrained_cfg" in config else _transformers_card(repository, config)
        top1 = {"top1_accuracy": CLAIMS[name]} if name in CLAIMS else {}
        data = "ImageNet-1k" if len(card["labels"]) == 1000 else ""
        use = ModelCard(**card, source=f"https://huggingface.co/{name}", data=data, claims=top1)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{CONFIG} of {where} does not say how its weights are used: {reason(error)}") from error
    stride = config.get("downsample_in_bottleneck")
    return dataclasses.replace(read_weights(file), where=where, card=use, stride_in_1x1=stride)


def _timm_card(config: Mapping[str, Any]) -> dict[str, Any]:
    use = config["pretrained_cfg"]
    ids, labels = imagenet_classes() if config.get("num_classes") == 1000 else ((), ())
    return {
        "mean": use["mean"],
        "std": use["std"],
        "crop": use.get("crop_pct", 0.875),
        "interpolation": "bilinear" if use.get("interpolation") == "bilinear" else "bicubic",
        "input_size": use["input_size"][1:],
        "labels": use.get("label_names") or config.get("label_names") or labels,
        "label_ids": ids,
        "network": config.get("architecture", ""),
        "recipe": use.get("tag", ""),
        "license": use.get("license", ""),
    }


def _transformers_card(repository: Repository, config: Mapping[str, Any]) -> dict[str, Any]:
    processor, _ = repository.json(PROCESSOR)
    size = processor.get("size", 224)
    side = size if isinstance(size, int) else size.get("shortest_edge", size.get("height", 224))
    kind = processor.get("image_processor_type") or processor.get("feature_extractor_type") or ""
    whole = kind.startswith("ViT")  # which resizes and never crops
    labels = [config["id2label"][key] for key in sorted(config.get("id2label", {}), key=int)]
    return {
        "mean": processor.get("image_mean", ModelCard().mean),
        "std": processor.get("image_std", ModelCard().std),
        "crop": processor.get("crop_pct", 1.0 if whole else 0.875),
        "interpolation": "bilinear" if processor.get("resample", 3) == 2 else "bicubic",
        "input_size": (side, side),
        "labels": labels,
        "network": config.get("model_type", ""),
    }
