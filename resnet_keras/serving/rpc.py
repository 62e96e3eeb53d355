"""TensorFlow Serving's gRPC services, and the standard health and reflection services."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from resnet_keras.errors import UsageError
from resnet_keras.serving import examples
from resnet_keras.serving.core import Core
from resnet_keras.serving.interceptors import ReadInHandler, Streams
from resnet_keras.serving.loaded import DEFAULT_SIGNATURE
from resnet_keras.serving.status import Code, ServingError, internal_errors, invalid
from resnet_keras.serving.tensors import to_proto
from resnet_keras.serving.versions import ModelSpec

LONGEST_MESSAGE = 1024
IDLE_SECONDS, AGE_SECONDS = 300, 1800
"""Of a connection without a request, and of any; a client connects anew by itself, without losing a request."""
CODES = {Code(code.value[0]): code for code in grpc.StatusCode}


class RpcServer:
    """The gRPC server; it listens after `start`.

    Args:
        core: the models.
        address: host:port.
        credentials: those of TLS; None for no TLS.
    """

    def __init__(self, core: Core, address: str, credentials: grpc.ServerCredentials | None) -> None:
        options = core.options
        self._streams = Streams()
        self._server = grpc.server(
            ThreadPoolExecutor(options.max_waiting_requests, "grpc"),
            options=[
                ("grpc.max_receive_message_length", options.max_request_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # else two servers share a port silently
                ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
                ("grpc.max_connection_age_ms", AGE_SECONDS * 1000),
                ("grpc.max_connection_age_grace_ms", 60_000),
            ],
            interceptors=[self._streams, ReadInHandler(core.room, options.workers(options.grpc_max_threads))],
            maximum_concurrent_rpcs=options.max_waiting_requests,
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(core), self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(core), self._server)
        services = [module.DESCRIPTOR.services_by_name[name].full_name for module, name in SERVICES]
        reflection.enable_server_reflection([*services, reflection.SERVICE_NAME], self._server)
        self._health = Health(["", *services[:2]])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            if credentials is None:
                self._server.add_insecure_port(address)
            else:
                self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise UsageError(f"cannot listen at {address}; is the port taken? give another --port") from error

    def start(self) -> None:
        self._server.start()

    def stop(self, seconds: float) -> None:
        """Refuse new requests; returns once those that run are answered, or after so many seconds."""
        self._health.serving = False
        self._streams.close()
        self._server.stop(seconds).wait()


SERVICES: list[tuple[Any, str]] = [
    (prediction_service_pb2, "PredictionService"),
    (model_service_pb2, "ModelService"),
    (health_pb2, "Health"),
]


def answered(call: Callable[..., Message]) -> Callable[[Any, Any, grpc.ServicerContext], Message]:
    """A method of a service whose `ServingError`s become gRPC's status codes."""

    def method(self: Any, request: Any, context: grpc.ServicerContext) -> Message:
        try:
            with internal_errors():
                return call(self, request)
        except ServingError as error:
            code, text = CODES[error.code], error.message
        if len(text) > LONGEST_MESSAGE:
            text = f"{text[:LONGEST_MESSAGE]}...TRUNCATED"
        context.abort(code, text)
        raise AssertionError("abort raises")

    return method


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify, Regress, MultiInference and GetModelMetadata."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @answered
    def Predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:  # noqa: N802
        with self._core.counted("GRPC", request.model_spec.name, "Predict"):
            signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
            predicted = self._core.predict(
                spec_of(request),
                signature,
                lambda version: version.read_inputs(signature, request.inputs, self._core.options.max_request_bytes),
                request.output_filter,
            )
            response = predict_pb2.PredictResponse()
            for name, array in predicted.outputs.items():
                response.outputs[name].CopyFrom(to_proto(array, predicted.dtypes[name]))
            response.model_spec.name = predicted.model
            response.model_spec.version.value = predicted.version
            response.model_spec.signature_name = predicted.signature
            return response

    @answered
    def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        with self._core.counted("GRPC", request.model_spec.name, "GetModelMetadata"):
            return self._core.metadata(spec_of(request), request.metadata_field)[0]

    @answered
    def Classify(  # noqa: N802
        self, request: classification_pb2.ClassificationRequest
    ) -> classification_pb2.ClassificationResponse:
        with self._core.counted("GRPC", request.model_spec.name, "Classify"):
            inferred = self._infer(request, "classification")
            response = classification_pb2.ClassificationResponse(result=inferred.result)
            _say_which(response.model_spec, inferred)
            return response

    @answered
    def Regress(self, request: regression_pb2.RegressionRequest) -> regression_pb2.RegressionResponse:  # noqa: N802
        with self._core.counted("GRPC", request.model_spec.name, "Regress"):
            inferred = self._infer(request, "regression")
            response = regression_pb2.RegressionResponse(result=inferred.result)
            _say_which(response.model_spec, inferred)
            return response

    def _infer(self, request: Any, kind: examples.Kind) -> examples.Inferred:
        signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
        return self._core.infer(spec_of(request), [(signature, kind)], request.input)[0]

    @answered
    def MultiInference(  # noqa: N802
        self, request: inference_pb2.MultiInferenceRequest
    ) -> inference_pb2.MultiInferenceResponse:
        if not request.tasks:
            raise invalid("Inference request must have at least one task")
        with self._core.counted("GRPC", request.tasks[0].model_spec.name, "MultiInference"):
            tasks, response = examples.tasks_of(request.tasks), inference_pb2.MultiInferenceResponse()
            inferred = self._core.infer(spec_of(request.tasks[0]), tasks, request.input)
            for one, (_, kind) in zip(inferred, tasks, strict=True):
                result = response.results.add()
                _say_which(result.model_spec, one)
                getattr(result, f"{kind}_result").CopyFrom(one.result)
            return response


def _say_which(spec: model_pb2.ModelSpec, inferred: examples.Inferred) -> None:
    spec.name, spec.signature_name = inferred.model, inferred.signature
    spec.version.value = inferred.version


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and ReloadConfig."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @answered
    def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        return self._core.status(spec_of(request))

    @answered
    def HandleReloadConfigRequest(  # noqa: N802
        self, request: model_management_pb2.ReloadConfigRequest
    ) -> model_management_pb2.ReloadConfigResponse:
        if not self._core.options.reloads_config():
            raise ServingError(
                Code.PERMISSION_DENIED,
                "ReloadConfig loads any folder for whoever reaches this port; --allow_reload_config=true admits it",
            )
        for entry in request.config.model_config_list.config:
            if entry.base_path and not entry.base_path.startswith("/") and "://" not in entry.base_path:
                words = "to have an absolute path or URI; got base_path()="
                raise invalid(f"Expected model {entry.name} {words}{entry.base_path}")
        self._core.manager.configure(request.config)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response


class Health(health_pb2_grpc.HealthServicer):
    """gRPC's health checks. A watch ends when the server stops.

    grpc-health-checking's own (1.85) waits, when it sends to a client that watches, with the lock that the end of
    another watch needs, on the thread that sends: a client that leaves in that moment stops the server's stop for good.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services, self.serving = set(services), True

    def Check(self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext) -> Any:  # noqa: N802
        if request.service not in self._services:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service[:100]}")
        return self._status(request)

    def Watch(  # noqa: N802  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext, send: Callable[[Any], None]
    ) -> None:
        """It holds no thread: the stream stays open when this returns."""
        send(self._status(request))

    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]

    def _status(self, request: health_pb2.HealthCheckRequest) -> Any:
        states = health_pb2.HealthCheckResponse
        if request.service not in self._services:
            return states(status=states.SERVICE_UNKNOWN)
        return states(status=states.SERVING if self.serving else states.NOT_SERVING)


def spec_of(request: Any) -> ModelSpec:
    """The model and version that a request names. Raises `ServingError` (INVALID_ARGUMENT) where it names no model."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    spec: model_pb2.ModelSpec = request.model_spec
    choice = spec.WhichOneof("version_choice")
    version = spec.version.value if choice == "version" else None
    return ModelSpec(spec.name, version, spec.version_label if choice == "version_label" else None)
