"""A version in memory: its signatures, and a session that runs them as TensorFlow Serving does."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import prediction_log_pb2

from resnet_keras.export.warmup import REQUESTS
from resnet_keras.serving.status import Code, ServingError, invalid, tensorflow_errors
from resnet_keras.serving.tensors import TensorInfo, shape_words, to_array

DEFAULT_SIGNATURE = "serving_default"
MOST_WARMUP_REQUESTS = 1000
MOST_WARMUP_BYTES = 1 << 30
OutputArrays = dict[str, np.ndarray]
"""The outputs of a request by their names."""


class LoadedVersion:
    """A SavedModel in memory. Any number of threads may call `run`.

    Args:
        name: of the model.
        version: its number.
        folder: the version folder.
        session_config: threads of the session.

    Raises:
        ServingError: the folder is no SavedModel that TensorFlow can run.
    """

    def __init__(self, name: str, version: int, folder: Path, session_config: tf.compat.v1.ConfigProto) -> None:
        self.name, self.version, self.folder = name, version, folder
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=session_config)
        try:
            meta = self._load()
        except BaseException:
            self._session.close()
            raise
        self.signatures: dict[str, meta_graph_pb2.SignatureDef] = {
            key: value for key, value in meta.signature_def.items() if not key.startswith("__")
        }
        self._inputs = {key: self._infos(value.inputs) for key, value in self.signatures.items()}
        self._outputs = {key: self._infos(value.outputs) for key, value in self.signatures.items()}
        self._callables: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Callable[..., list[Any]]] = {}
        self._users, self._idle = 0, threading.Condition()

    def _load(self) -> meta_graph_pb2.MetaGraphDef:
        if not (self.folder / "saved_model.pb").is_file():
            raise ServingError(
                Code.NOT_FOUND, f"Could not find SavedModel .pb at supplied export directory path: {self.folder}"
            )
        try:
            with self._session.graph.as_default(), tensorflow_errors():
                return tf.compat.v1.saved_model.load(self._session, [tf.saved_model.SERVING], str(self.folder))
        except ServingError:
            raise
        except Exception as error:  # a damaged graph shows itself in a dozen kinds of error
            raise ServingError(Code.INTERNAL, f"{self.folder} cannot be loaded: {error}") from error

    def _infos(self, infos: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, TensorInfo]:
        """By the graph's shape where it has one: a signature's can be wrong, and TensorFlow Serving ignores it."""
        found = {}
        for name, info in infos.items():
            own = self._session.graph.get_tensor_by_name(info.name).shape if info.name else None
            shape = own if own is not None and own.rank is not None else tf.TensorShape(_sizes(info.tensor_shape))
            found[name] = TensorInfo(info.name, tf.as_dtype(info.dtype).base_dtype, shape)
        return found

    def inputs_of(self, signature: str) -> Mapping[str, TensorInfo]:
        """Raises KeyError for a signature that is not there."""
        return self._inputs[signature]

    def outputs_of(self, signature: str) -> Mapping[str, TensorInfo]:
        return self._outputs[signature]

    def check_names(self, signature: str, given: Iterable[str]) -> None:
        """Raise `ServingError` for a signature that is not there, or other inputs than it has (predict_util.cc)."""
        if signature not in self.signatures:
            raise ServingError(Code.FAILED_PRECONDITION, f'Serving signature key "{signature}" not found.')
        wanted, given = set(self._inputs[signature]), set(given)
        if wanted != given:
            raise invalid(
                f"input size does not match signature: {len(given)}!={len(wanted)} "
                f"len({_set(given)}) != len({_set(wanted)}). "
                f"Sent extra: {_set(given - wanted)}. Missing but required: {_set(wanted - given)}."
            )

    def check(self, signature: str, inputs: Mapping[str, np.ndarray], output_filter: Sequence[str]) -> list[str]:
        """Check the inputs of a signature; returns the names of the outputs to compute (predict_util.cc).

        Shapes are checked too: TensorFlow does not, and a tensor of another rank can end the process.
        """
        self.check_names(signature, inputs)
        for name, spec in self._inputs[signature].items():
            array = inputs[name]
            if (array.dtype == object) != (spec.dtype == tf.string) or (
                spec.dtype != tf.string and array.dtype != spec.dtype.as_numpy_dtype
            ):
                raise invalid(f"input {name} must be {spec.dtype.name}, not {array.dtype}")
            if not spec.takes(array.shape):
                raise invalid(f"input {name} must have the shape {shape_words(spec.shape)}, not {list(array.shape)}")
        known = self._outputs[signature]
        for name in output_filter:
            if name not in known:
                words = f"output tensor alias not found in signature: {name}"
                raise invalid(f"{words} Outputs expected to be in the set {_set(known)}.")
        if len(set(output_filter)) != len(output_filter):
            twice = next(name for name in output_filter if list(output_filter).count(name) > 1)
            raise invalid(f"duplicate output tensor alias: {twice}")
        return list(output_filter) or sorted(known)

    def run(self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> OutputArrays:
        """The outputs for inputs that passed `check`."""
        key = (signature, tuple(sorted(inputs)), tuple(sorted(outputs)))
        if key not in self._callables:
            fetches = [self._outputs[signature][name].tensor for name in key[2]]
            feeds = [self._inputs[signature][name].tensor for name in key[1]]
            self._callables[key] = self._session.make_callable(fetches, feeds)
        specs = self._inputs[signature]
        columns = {name for name in key[1] if specs[name].is_column(inputs[name].shape)}
        with tensorflow_errors():
            feeds = (inputs[name][:, None] if name in columns else inputs[name] for name in key[1])
            values = self._callables[key](*feeds)
        # Of a string of no dimensions, bytes come; of a vector that stands for a column, a vector is expected.
        arrays = [np.array(value, object) if isinstance(value, bytes) else value for value in values]
        if columns:
            arrays = [array[:, 0] if array.shape[1:] == (1,) else array for array in arrays]
        return dict(zip(key[2], arrays, strict=True))

    def read_inputs(
        self, signature: str, protos: Mapping[str, tensor_pb2.TensorProto], most: int
    ) -> dict[str, np.ndarray]:
        """The inputs of a request, of `most` bytes in all. Raises `ServingError` before one is made."""
        self.check_names(signature, protos)
        inputs: dict[str, np.ndarray] = {}
        for name, spec in self._inputs[signature].items():
            inputs[name] = to_array(protos[name], name, spec, most)
            most -= inputs[name].nbytes
        return inputs

    def warm_up(self, times: int) -> int:
        """Run the requests that are stored beside the SavedModel; returns their number."""
        path, requests = self.folder / REQUESTS, 0
        if not path.is_file():
            return 0
        with tensorflow_errors():
            records: Any = tf.data.TFRecordDataset(str(path))
            for record in records:
                requests += 1
                if requests > MOST_WARMUP_REQUESTS:
                    raise invalid(f"Number of warmup records exceeds the maximum ({MOST_WARMUP_REQUESTS}) at {path}")
                self._warm_up_by(record.numpy(), times)
        return requests

    def _warm_up_by(self, record: bytes, times: int) -> None:
        try:
            log = prediction_log_pb2.PredictionLog.FromString(record)
        except Exception as error:
            raise invalid(f"Failed to parse warmup record from {self.folder / REQUESTS}") from error
        kind = log.WhichOneof("log_type")
        if kind != "predict_log":
            raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
        request = log.predict_log.request
        signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
        inputs = self.read_inputs(signature, request.inputs, MOST_WARMUP_BYTES)
        outputs = self.check(signature, inputs, request.output_filter)
        for _ in range(times):
            self.run(signature, inputs, outputs)

    def __enter__(self) -> "LoadedVersion":
        """Hold the version; `close` waits for those who do."""
        with self._idle:
            self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._idle:
            self._users -= 1
            self._idle.notify_all()

    def close(self, seconds: float | None = None) -> None:
        """Free the memory once no request holds the version, or after so many seconds."""
        end = None if seconds is None else time.monotonic() + seconds
        with self._idle:
            while self._users and (end is None or time.monotonic() < end):
                self._idle.wait(None if end is None else end - time.monotonic())
        self._callables.clear()
        self._session.close()


def _sizes(shape: tensor_shape_pb2.TensorShapeProto) -> Any:
    return None if shape.unknown_rank else [None if dim.size < 0 else dim.size for dim in shape.dim]


def _set(names: object) -> str:
    return "{" + ",".join(sorted(names)) + "}"  # type: ignore[call-overload]
