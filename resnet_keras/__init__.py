"""ResNets for Keras 3 and TensorFlow: build, train, export, serve.

    import resnet_keras as rk

    model = rk.build_resnet(50)

Importing the package registers its layers, so that `keras.models.load_model` finds them.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_keras.version import __version__

if TYPE_CHECKING:
    from resnet_keras.config.augmentation import Augmentation
    from resnet_keras.config.recipes import RECIPES
    from resnet_keras.config.train import Optimizer, Schedule, TrainConfig
    from resnet_keras.errors import UsageError
    from resnet_keras.export.servable import export_servable
    from resnet_keras.inference.evaluate import evaluate
    from resnet_keras.inference.explain import Explanation, explain
    from resnet_keras.inference.predict import decode_predictions, predict, preprocess_input
    from resnet_keras.models.card import ModelCard
    from resnet_keras.models.complexity import Complexity, complexity, create_model
    from resnet_keras.models.convnext import build_convnext
    from resnet_keras.models.densenet import build_densenet
    from resnet_keras.models.features import feature_pyramid, freeze, freeze_norms, unfreeze
    from resnet_keras.models.model import Model
    from resnet_keras.models.preprocessing import model_card
    from resnet_keras.models.registry import list_models
    from resnet_keras.models.resnet import build_cifar_resnet, build_resnet
    from resnet_keras.models.saved import load_model
    from resnet_keras.models.spec import ResNetSpec
    from resnet_keras.models.vgg import build_vgg
    from resnet_keras.models.vit import build_vit
    from resnet_keras.models.weights.loading import load_weights
    from resnet_keras.models.weights.saving import save_weights, torch_state_dict
    from resnet_keras.publishing.publish import Published, publish
    from resnet_keras.reports.plots import draw_explanation
    from resnet_keras.training.trainer import TrainResult, train

_HOMES = {
    "Model": "models.model",
    "ModelCard": "models.card",
    "RECIPES": "config.recipes",
    "TrainConfig": "config.train",
    "Augmentation": "config.augmentation",
    "Optimizer": "config.train",
    "Schedule": "config.train",
    "UsageError": "errors",
    "evaluate": "inference.evaluate",
    "Explanation": "inference.explain",
    "explain": "inference.explain",
    "draw_explanation": "reports.plots",
    "export_servable": "export.servable",
    "Published": "publishing.publish",
    "publish": "publishing.publish",
    "predict": "inference.predict",
    "build_cifar_resnet": "models.resnet",
    "build_resnet": "models.resnet",
    "build_densenet": "models.densenet",
    "build_convnext": "models.convnext",
    "build_vit": "models.vit",
    "build_vgg": "models.vgg",
    "feature_pyramid": "models.features",
    "freeze": "models.features",
    "freeze_norms": "models.features",
    "unfreeze": "models.features",
    "decode_predictions": "inference.predict",
    "preprocess_input": "inference.predict",
    "model_card": "models.preprocessing",
    "load_weights": "models.weights.loading",
    "save_weights": "models.weights.saving",
    "torch_state_dict": "models.weights.saving",
    "load_model": "models.saved",
    "ResNetSpec": "models.spec",
    "list_models": "models.registry",
    "TrainResult": "training.trainer",
    "train": "training.trainer",
    "Complexity": "models.complexity",
    "complexity": "models.complexity",
    "create_model": "models.complexity",
}

_ON_TENSORFLOW = ("export", "inference", "reports", "training")
"""Rooms that are TensorFlow's; networks, their weights and their features are of every backend."""

__all__ = [  # noqa: RUF022
    "__version__",
    "Model",
    "ModelCard",
    "RECIPES",
    "TrainConfig",
    "Augmentation",
    "Optimizer",
    "Schedule",
    "UsageError",
    "evaluate",
    "Explanation",
    "explain",
    "draw_explanation",
    "export_servable",
    "Published",
    "publish",
    "predict",
    "build_cifar_resnet",
    "build_resnet",
    "build_densenet",
    "build_convnext",
    "build_vit",
    "build_vgg",
    "feature_pyramid",
    "freeze",
    "freeze_norms",
    "unfreeze",
    "decode_predictions",
    "preprocess_input",
    "model_card",
    "load_weights",
    "save_weights",
    "torch_state_dict",
    "load_model",
    "ResNetSpec",
    "list_models",
    "TrainResult",
    "train",
    "Complexity",
    "complexity",
    "create_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOMES[name].split(".")[0] in _ON_TENSORFLOW and _backend() != "tensorflow":
        from resnet_keras.errors import UsageError

        raise UsageError(f"rk.{name} needs Keras's tensorflow backend, not {_backend()}; set KERAS_BACKEND=tensorflow")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def _backend() -> str:
    """The backend of Keras, which need not be imported yet."""
    keras = sys.modules.get("keras")
    return keras.backend.backend() if keras else os.environ.get("KERAS_BACKEND", "tensorflow")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _is_program() -> bool:
    """Whether this process is `resnet-keras` or `python -m resnet_keras`."""
    word = Path((getattr(sys, "argv", None) or [""])[0]).name
    return word == "resnet-keras" or (word == "-m" and __name__ in sys.orig_argv)


# The program itself imports TensorFlow, which takes seconds, only for the commands that need it.
if not _is_program():
    if _backend() == "tensorflow":
        from resnet_keras.startup import import_tensorflow

        import_tensorflow()
    importlib.import_module(f"{__name__}.models.saved")  # which registers every layer
