"""Configs from JSON, of this version and of earlier ones. Standard library only."""

import dataclasses
import json
from typing import Any, get_type_hints

from resnet_keras.config.train import FORMAT_VERSION, TrainConfig
from resnet_keras.errors import UsageError, is_whole, require, unknown
from resnet_keras.version import __version__


def config_from_json(text: str, where: str = "the config") -> TrainConfig:
    """The config that `TrainConfig.to_json` wrote; fields left out have their defaults.

    Raises `UsageError`, which names `where` and the field, for anything else and for a later version of the format.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON: {error}") from error
    if isinstance(values, dict):
        of_0_1 = "test_every" in values  # which wrote every field, and no version
        version = values.pop("format_version", 1 if of_0_1 else FORMAT_VERSION)
        require(is_whole(version) and version >= 1, f"{where}, format_version", "a whole number from 1", repr(version))
        if version > FORMAT_VERSION:
            raise UsageError(
                f"{where} has format_version {version}, and resnet-keras {__version__} reads up to {FORMAT_VERSION}; "
                f"it needs a later version: pip install --upgrade resnet-keras"
            )
        if "final_test" not in values and of_0_1 and values.get("validation"):
            values["final_test"] = False  # what validation meant in 0.1
        options = values.get("model_options", {})
        if version == 1 and str(values.get("model")).startswith("cifar_preact_resnet") and isinstance(options, dict):
            values["model_options"] = {"stride_in_1x1": False, **options}
    return _from_dict(TrainConfig, values, where)


def _from_dict(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise UsageError(f"{where} must be a JSON object, not {type(values).__name__}")
    hints = get_type_hints(kind)
    arguments = {}
    for name, value in values.items():
        if name not in hints:
            raise unknown(f"field in {where}", name, hints)
        if dataclasses.is_dataclass(hints[name]):
            value = _from_dict(hints[name], value, f"{where}, {name}")
        arguments[name] = tuple(value) if isinstance(value, list) else value
    return kind(**arguments)
