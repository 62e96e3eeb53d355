"""What REST and gRPC have in common: a request's way to a version, through the batcher or not, and its count."""

import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2
from tensorflow_serving.config import model_server_config_pb2

from resnet_keras.serving.batching import Batcher
from resnet_keras.serving.config_files import Batching
from resnet_keras.serving.loaded import LoadedVersion, Outputs
from resnet_keras.serving.manager import Manager
from resnet_keras.serving.metrics import Metrics
from resnet_keras.serving.options import ServerOptions
from resnet_keras.serving.status import Code, ServingError, invalid

SIGNATURES = "signature_def"
CALLS_WITHOUT_EXAMPLES = (
    "this server answers Predict; Classify, Regress and MultiInference need a signature that takes tf.Example"
)


class Core:
    """The models, and everything that is asked of them.

    Args:
        options: the server's flags.
        config: the models to begin with.
        batching: None for none.
    """

    def __init__(
        self, options: ServerOptions, config: model_server_config_pb2.ModelServerConfig, batching: Batching | None
    ) -> None:
        self.options, self.metrics = options, Metrics()
        self.manager = Manager(options, self.metrics, config)
        self._batcher = Batcher(batching, self.metrics) if batching else None
        self._limit = threading.BoundedSemaphore(options.max_waiting_requests)

    def admit(self) -> None:
        """Count a request in. Raises `ServingError` (UNAVAILABLE) where too many wait; else `done` must follow."""
        if not self._limit.acquire(blocking=False):
            raise ServingError(
                Code.UNAVAILABLE, f"{self.options.max_waiting_requests} requests are under way or wait; try again later"
            )

    def done(self) -> None:
        self._limit.release()

    def predict(
        self,
        version: LoadedVersion,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str] = (),
    ) -> Outputs:
        """The outputs of a signature; all of them where none is named."""
        outputs = version.check(signature, inputs, output_filter)
        started = time.perf_counter()
        if self._batcher:
            answer = self._batcher.run(version, signature, inputs, outputs)
        else:
            answer = version.run(signature, inputs, outputs)
        self.metrics.run(version.name, (time.perf_counter() - started) * 1e6)
        return answer

    def count(self, model: str, error: ServingError | None, api: str, entrypoint: str, started: float) -> None:
        """Count an answered request, which began at `started` of `time.perf_counter`."""
        known = model if self.manager.has_model(model) else ""
        code = error.code if error else Code.OK
        self.metrics.request(known, code, api, entrypoint, (time.perf_counter() - started) * 1e6)

    def status(
        self, name: str, number: int | None = None, label: str | None = None
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The states of a model's versions."""
        response = get_model_status_pb2.GetModelStatusResponse()
        states = get_model_status_pb2.ModelVersionStatus.State
        for version, state in self.manager.states(name, number, label).items():
            told = response.model_version_status.add(version=version, state=states.Value(state.state))
            told.status.SetInParent()
            if state.error:
                told.status.error_code = int(state.error.code)  # type: ignore[assignment]
                told.status.error_message = state.error.message
        return response

    def metadata(
        self, name: str, number: int | None = None, label: str | None = None, fields: Sequence[str] = (SIGNATURES,)
    ) -> tuple[get_model_metadata_pb2.GetModelMetadataResponse, get_model_metadata_pb2.SignatureDefMap]:
        """The signatures of a version, packed as gRPC has them and plain."""
        if not fields:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in fields:
            if field != SIGNATURES:
                raise invalid(f"Metadata field {field} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self.manager.version(name, number, label) as version:
            response.model_spec.name = version.name
            response.model_spec.version.value = version.version
            for key, signature in version.signatures.items():
                signatures.signature_def[key].CopyFrom(signature)
        response.metadata[SIGNATURES].Pack(signatures)
        return response, signatures

    def close(self) -> None:
        """Finish what is under way and free the memory."""
        if self._batcher:
            self._batcher.close()
        self.manager.close()
