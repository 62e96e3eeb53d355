"""The text protos the server reads: models, batching, monitoring, TLS.

`tensorflow-serving-api` has the first; the others are described here by TensorFlow Serving's own field names
(session_bundle_config.proto, monitoring_config.proto, ssl_config.proto).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from google.protobuf.message import Message
from tensorflow_serving.config import model_server_config_pb2

from resnet_keras.errors import UsageError, reason
from resnet_keras.remote.stores import is_remote, open_store

Field = descriptor_pb2.FieldDescriptorProto
INT64 = ".google.protobuf.Int64Value"
BOOL = ".google.protobuf.BoolValue"
BATCHING: Mapping[str, tuple[int, Any]] = {
    "max_batch_size": (1, INT64),
    "batch_timeout_micros": (2, INT64),
    "max_enqueued_batches": (3, INT64),
    "num_batch_threads": (4, INT64),
    "thread_pool_name": (5, ".google.protobuf.StringValue"),
    "allowed_batch_sizes": (6, Field.TYPE_INT64),
    "pad_variable_length_inputs": (7, Field.TYPE_BOOL),
    "enable_large_batch_splitting": (8, BOOL),
    "max_execution_batch_size": (9, INT64),
}
SSL: Mapping[str, tuple[int, Any]] = {
    "server_key": (1, Field.TYPE_STRING),
    "server_cert": (2, Field.TYPE_STRING),
    "custom_ca": (3, Field.TYPE_STRING),
    "client_verify": (4, Field.TYPE_BOOL),
}
PROMETHEUS: Mapping[str, tuple[int, Any]] = {"enable": (1, Field.TYPE_BOOL), "path": (2, Field.TYPE_STRING)}
MONITORING: Mapping[str, tuple[int, Any]] = {"prometheus_config": (1, ".resnet_keras.PrometheusConfig")}


def _message_types() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="resnet_keras_serving.proto", package="resnet_keras", syntax="proto3"
    )
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    kinds = {
        "BatchingParameters": BATCHING,
        "SSLConfig": SSL,
        "PrometheusConfig": PROMETHEUS,
        "MonitoringConfig": MONITORING,
    }
    for name, fields in kinds.items():
        message = file.message_type.add(name=name)
        for key, (number, kind) in fields.items():
            repeated = key == "allowed_batch_sizes"
            field = message.field.add(name=key, number=number)
            field.label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type, field.type_name = Field.TYPE_MESSAGE, kind
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"resnet_keras.{name}")) for name in kinds}


TYPES = _message_types()


def _read(path: str | Path, message: Any, what: str) -> Any:
    try:
        return text_format.Parse(Path(path).expanduser().read_text("utf-8"), message)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise UsageError(f"cannot read {what} {path}: {reason(error)}") from error


@dataclass(frozen=True)
class Batching:
    """BatchingParameters; the defaults are TensorFlow's (shared_batch_scheduler.h)."""

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = os.cpu_count() or 1
    thread_pool_name: str = "batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None


def read_batching(path: str | Path | None) -> Batching:
    """The batching parameters of a file, or the defaults. Raises `UsageError` for values that cannot be."""
    if path is None:
        return Batching()
    message = _read(path, TYPES["BatchingParameters"](), "the batching parameters")
    if message.pad_variable_length_inputs:
        raise UsageError(f"{path}: pad_variable_length_inputs is not supported; images of one size need no padding")
    wrapped = [key for key, (_, kind) in BATCHING.items() if isinstance(kind, str) and message.HasField(key)]
    given = {key: getattr(message, key).value for key in wrapped}
    batching = Batching(**given, allowed_batch_sizes=tuple(message.allowed_batch_sizes))
    for key in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
        if getattr(batching, key) < 1:
            raise UsageError(f"{path}: {key} must be at least 1, not {getattr(batching, key)}")
    if not 0 <= batching.batch_timeout_micros <= 60_000_000:
        raise UsageError(
            f"{path}: batch_timeout_micros must be from 0 to 60,000,000, not {batching.batch_timeout_micros}"
        )
    sizes, largest = list(batching.allowed_batch_sizes), batching.max_execution_batch_size or batching.max_batch_size
    if sizes and (sizes != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != largest):
        raise UsageError(f"{path}: allowed_batch_sizes must rise and end at {largest}, not {sizes}")
    if batching.max_execution_batch_size is not None:
        if not batching.enable_large_batch_splitting:
            raise UsageError(f"{path}: max_execution_batch_size is of use with enable_large_batch_splitting only")
        if not 1 <= batching.max_execution_batch_size <= batching.max_batch_size:
            raise UsageError(f"{path}: max_execution_batch_size must be from 1 to max_batch_size")
    return batching


def read_monitoring(path: str | Path | None) -> str | None:
    """The path of the metrics; None where they are off."""
    if path is None:
        return None
    prometheus = _read(path, TYPES["MonitoringConfig"](), "the monitoring configuration").prometheus_config
    if not prometheus.enable:
        return None
    if prometheus.path and not prometheus.path.startswith("/"):
        raise UsageError(f"{path}: the path of the metrics must start with a slash, not {prometheus.path!r}")
    return prometheus.path or "/monitoring/prometheus/metrics"


def read_ssl(path: str | Path) -> Message:
    """The keys of a file. Raises `UsageError` where one is missing."""
    message: Any = _read(path, TYPES["SSLConfig"](), "the TLS configuration")
    for key in ("server_key", "server_cert"):
        if "-----BEGIN" not in getattr(message, key):
            raise UsageError(f"{path}: {key} must be a PEM text, which starts with -----BEGIN")
    if message.client_verify and not message.custom_ca:
        raise UsageError(f"{path}: client_verify needs custom_ca, the authority of the clients")
    return message


def read_models(path: Path) -> model_server_config_pb2.ModelServerConfig:
    """A model configuration. A base path that is not there is the folder beside the file.

    Export writes `/models/NAME`, the path in TensorFlow Serving's container.
    """
    config = _read(path, model_server_config_pb2.ModelServerConfig(), "the model configuration")
    if config.WhichOneof("config") == "custom_model_config":
        raise UsageError(f"{path}: a custom_model_config is not supported; give a model_config_list")
    for entry in config.model_config_list.config:
        beside = path.resolve().parent / Path(entry.base_path).name
        if not Path(entry.base_path).exists() and beside.is_dir():
            entry.base_path = str(beside)
    return config


def one_model(name: str, base_path: str) -> model_server_config_pb2.ModelServerConfig:
    """The configuration that --model_name and --model_base_path make."""
    config = model_server_config_pb2.ModelServerConfig()
    if is_remote(base_path):
        open_store(base_path)  # what it refuses, it refuses here
        config.model_config_list.config.add(name=name, base_path=base_path, model_platform="tensorflow")
        return config
    folder = Path(base_path).expanduser()
    if not folder.is_dir():
        raise UsageError(
            f"there is no folder {folder} to serve; give --model_base_path the folder of the version folders"
        )
    config.model_config_list.config.add(name=name, base_path=str(folder.resolve()), model_platform="tensorflow")
    return config
