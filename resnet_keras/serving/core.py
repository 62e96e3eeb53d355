"""What REST and gRPC have in common: a request's path to a version, through the batcher or not, and its count."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, input_pb2
from tensorflow_serving.config import model_server_config_pb2

from resnet_keras.serving import examples
from resnet_keras.serving.batching import Batcher
from resnet_keras.serving.config_files import Batching
from resnet_keras.serving.loaded import LoadedVersion, OutputArrays
from resnet_keras.serving.manager import Manager
from resnet_keras.serving.metrics import Metrics
from resnet_keras.serving.options import ServerOptions
from resnet_keras.serving.room import Room
from resnet_keras.serving.status import Code, ServingError, internal_errors, invalid
from resnet_keras.serving.versions import ModelSpec

SIGNATURES = "signature_def"


@dataclass
class Counted:
    """The labels that a request is counted under."""

    model: str
    method: str


@dataclass(frozen=True)
class Predicted:
    """The outputs of a request, and the version and signature that gave them."""

    model: str
    version: int
    signature: str
    outputs: OutputArrays
    dtypes: Mapping[str, tf.DType]


class Core:
    """The models, and what both APIs do with them.

    Args:
        options: the server's flags.
        config: the models at the start.
        batching: the parameters of batching; None for no batching.
    """

    def __init__(
        self, options: ServerOptions, config: model_server_config_pb2.ModelServerConfig, batching: Batching | None
    ) -> None:
        self.options, self.metrics = options, Metrics()
        self.room = Room(options.max_request_bytes * 4)
        self.manager = Manager(options, self.metrics, config)
        self._batcher = Batcher(batching, self.metrics) if batching else None

    @contextlib.contextmanager
    def counted(self, entrypoint: str, model: str = "", method: str = "") -> Iterator[Counted]:
        """Count and time the request of the block, in which every error becomes a `ServingError`.

        Args:
            entrypoint: REST or GRPC.
            model: its name. Where it is known only later, set it on the object that the block gets.
            method: predict, status, ...; as `model`.
        """
        started, counted = time.perf_counter(), Counted(model, method)

        def count(code: Code) -> None:
            known = counted.model if self.manager.has_model(counted.model) else ""
            self.metrics.request(known, code, counted.method, entrypoint, (time.perf_counter() - started) * 1e6)

        try:
            with internal_errors():
                yield counted
        except ServingError as error:
            count(error.code)
            raise
        count(Code.OK)

    def predict(
        self,
        spec: ModelSpec,
        signature: str,
        read_inputs: Callable[[LoadedVersion], Mapping[str, np.ndarray]],
        output_filter: Sequence[str] = (),
    ) -> Predicted:
        """Run a signature. Every request takes this path; an API only reads requests and writes answers.

        Args:
            spec: the model and its version, which is held until the outputs are there.
            signature: its name.
            read_inputs: gives the inputs as arrays. It gets the version, as JSON cannot be read without its dtypes.
            output_filter: the outputs to return; all of them where empty.

        Raises:
            ServingError: no such version, signature, input or output; inputs of a wrong dtype or shape; a full queue.
        """
        with self.manager.version(spec) as version:
            inputs = read_inputs(version)
            names = version.check(signature, inputs, output_filter)
            self._check_strings(inputs)
            outputs = self._run(version, signature, inputs, names)
            dtypes = {name: version.outputs_of(signature)[name].dtype for name in outputs}
            return Predicted(version.name, version.version, signature, outputs, dtypes)

    def infer(
        self, spec: ModelSpec, tasks: Sequence[tuple[str, examples.Kind]], given: input_pb2.Input
    ) -> list[examples.Inferred]:
        """Classify or regress examples, by one signature or several.

        Args:
            spec: the model and its version.
            tasks: signature and kind of each result.
            given: the examples.

        Raises:
            ServingError: no such version or signature, or one of another kind.
        """
        with self.manager.version(spec) as version:
            names = [examples.outputs_of(version, signature, kind) for signature, kind in tasks]
            inputs, found = {"inputs": examples.serialized(given)}, []
            self._check_strings(inputs)
            for (signature, kind), outputs in zip(tasks, names, strict=True):
                version.check(signature, inputs, outputs)
                arrays = self._run(version, signature, inputs, outputs)
                result = examples.result_of(kind, arrays, len(inputs["inputs"]))
                found.append(examples.Inferred(version.name, version.version, signature, result))
            return found

    def _check_strings(self, inputs: Mapping[str, np.ndarray]) -> None:
        """An encoded image of no bytes costs the network as much as any, and a megabyte has 90,000 of them."""
        count = sum(array.size for array in inputs.values() if array.dtype == object)
        most = self.options.max_request_strings
        if count > most:
            raise invalid(f"{count:,} strings are more than max_request_strings, {most:,}; send them in parts")

    def _run(
        self, version: LoadedVersion, signature: str, inputs: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> OutputArrays:
        run = self._batcher.run if self._batcher else LoadedVersion.run
        started = time.perf_counter()
        outputs = run(version, signature, inputs, names)
        self.metrics.run(version.name, (time.perf_counter() - started) * 1e6)
        return outputs

    def status(self, spec: ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
        """The states of a model's versions."""
        response = get_model_status_pb2.GetModelStatusResponse()
        states = get_model_status_pb2.ModelVersionStatus.State
        for version, state in self.manager.states(spec).items():
            row = response.model_version_status.add(version=version, state=states.Value(state.state))
            row.status.SetInParent()
            if state.error:
                row.status.error_code = int(state.error.code)  # type: ignore[assignment]
                row.status.error_message = state.error.message
        return response

    def metadata(
        self, spec: ModelSpec, fields: Sequence[str] = (SIGNATURES,)
    ) -> tuple[get_model_metadata_pb2.GetModelMetadataResponse, get_model_metadata_pb2.SignatureDefMap]:
        """The signatures of a version, packed as gRPC has them and plain."""
        if not fields:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in fields:
            if field != SIGNATURES:
                raise invalid(f"Metadata field {field} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self.manager.version(spec) as version:
            response.model_spec.name = version.name
            response.model_spec.version.value = version.version
            for key, signature in version.signatures.items():
                signatures.signature_def[key].CopyFrom(signature)
        response.metadata[SIGNATURES].Pack(signatures)
        return response, signatures

    def close(self) -> None:
        """Run the batches that wait, unload the models."""
        if self._batcher:
            self._batcher.close()
        self.manager.close()
