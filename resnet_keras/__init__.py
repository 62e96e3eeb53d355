"""ResNets for Keras 3 and TensorFlow: build, train, export, serve.

    import resnet_keras as rk

    model = rk.build_resnet(50)

Importing the package registers its layers, so that `keras.models.load_model` finds them.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_keras.version import __version__

if TYPE_CHECKING:
    from resnet_keras.card import ModelCard
    from resnet_keras.config import TrainConfig
    from resnet_keras.errors import UsageError
    from resnet_keras.evaluation import evaluate
    from resnet_keras.explanation import Explanation, explain
    from resnet_keras.export.servable import export_servable
    from resnet_keras.features import feature_pyramid, freeze, freeze_norms, unfreeze
    from resnet_keras.lineage import build_densenet, build_vgg
    from resnet_keras.names import list_models
    from resnet_keras.prediction import decode_predictions, predict, preprocess_input
    from resnet_keras.recipes import RECIPES
    from resnet_keras.reporting import draw_explanation
    from resnet_keras.resnet import build_cifar_resnet, build_resnet
    from resnet_keras.runs import load_model, model_card
    from resnet_keras.specs import ResNetSpec
    from resnet_keras.training.trainer import TrainResult, train
    from resnet_keras.weights.loading import load_weights
    from resnet_keras.weights.saving import save_weights, torch_state_dict
    from resnet_keras.zoo import Complexity, complexity, create_model

_HOMES = {
    "ModelCard": "card",
    "RECIPES": "recipes",
    "TrainConfig": "config",
    "UsageError": "errors",
    "evaluate": "evaluation",
    "Explanation": "explanation",
    "explain": "explanation",
    "draw_explanation": "reporting",
    "export_servable": "export.servable",
    "predict": "prediction",
    "build_cifar_resnet": "resnet",
    "build_resnet": "resnet",
    "build_densenet": "lineage",
    "build_vgg": "lineage",
    "feature_pyramid": "features",
    "freeze": "features",
    "freeze_norms": "features",
    "unfreeze": "features",
    "decode_predictions": "prediction",
    "preprocess_input": "prediction",
    "model_card": "runs",
    "load_weights": "weights.loading",
    "save_weights": "weights.saving",
    "torch_state_dict": "weights.saving",
    "load_model": "runs",
    "ResNetSpec": "specs",
    "list_models": "names",
    "TrainResult": "training.trainer",
    "train": "training.trainer",
    "Complexity": "zoo",
    "complexity": "zoo",
    "create_model": "zoo",
}

__all__ = [  # noqa: RUF022
    "__version__",
    "ModelCard",
    "RECIPES",
    "TrainConfig",
    "UsageError",
    "evaluate",
    "Explanation",
    "explain",
    "draw_explanation",
    "export_servable",
    "predict",
    "build_cifar_resnet",
    "build_resnet",
    "build_densenet",
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
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


# The program itself imports TensorFlow, which takes seconds, only for the commands that need it.
if Path((getattr(sys, "argv", None) or [""])[0]).name != "resnet-keras":
    from resnet_keras.startup import import_tensorflow

    import_tensorflow()
    importlib.import_module(f"{__name__}.blocks")
