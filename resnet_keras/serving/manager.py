"""The versions in memory: those of the folders that the configuration names.

A new version is loaded and warmed up before an old one is unloaded. Where no new one can be loaded, the old one
stays (TensorFlow Serving's AvailabilityPreservingPolicy).
"""

import contextlib
import gc
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.config import model_server_config_pb2

from resnet_keras.serving.loaded import LoadedVersion
from resnet_keras.serving.metrics import Metrics
from resnet_keras.serving.options import ServerOptions
from resnet_keras.serving.status import Code, ServingError, invalid

log = logging.getLogger(__name__)
START, LOADING, AVAILABLE, UNLOADING, END = "START", "LOADING", "AVAILABLE", "UNLOADING", "END"
"""The states of a version, by the names of GetModelStatusResponse."""
PLATFORM = "tensorflow"


@dataclass(frozen=True)
class ModelSpec:
    """The model that a request names, and the version: by number, by label, or the newest."""

    name: str = ""
    version: int | None = None
    label: str | None = None


@dataclass
class VersionState:
    """The state of one version."""

    state: str = START
    error: ServingError | None = None
    loaded: LoadedVersion | None = None
    failures: int = 0
    retry_at: float = 0.0


@dataclass
class Model:
    """A model of the configuration, and its versions, unloaded ones too."""

    config: model_server_config_pb2.ModelConfig
    versions: dict[int, VersionState] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    """Those of the configuration, once its versions are loaded."""

    @property
    def available(self) -> list[int]:
        return sorted(number for number, state in self.versions.items() if state.state == AVAILABLE)

    def aspired(self) -> list[int]:
        """The versions that should be served, of those that the folder has; rising."""
        base = Path(self.config.base_path)
        with contextlib.suppress(OSError):
            there = sorted({int(c.name) for c in base.iterdir() if _is_number(c.name) and c.is_dir()})
            policy = self.config.model_version_policy
            kind = policy.WhichOneof("policy_choice")
            if kind == "all":
                return there
            if kind == "specific":
                return [number for number in there if number in set(policy.specific.versions)]
            return there[-max(1, policy.latest.num_versions) :]
        return []

    def folder(self, number: int) -> Path:
        """TensorFlow takes 3 and 003 for the same version."""
        base = Path(self.config.base_path)
        return next((c for c in base.iterdir() if _is_number(c.name) and int(c.name) == number), base / str(number))


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and int(name) < 2**63


class Manager:
    """Loads and unloads versions on one thread, and lends loaded ones to any number of threads.

    Args:
        options: the seconds between two looks and two tries, and the threads of a session.
        metrics: where warm-ups are counted.
        config: the models at the start.
    """

    def __init__(
        self, options: ServerOptions, metrics: Metrics, config: model_server_config_pb2.ModelServerConfig
    ) -> None:
        self._options, self._metrics = options, metrics
        self._session_config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=options.tensorflow_intra_op_parallelism
            or options.tensorflow_session_parallelism,
            inter_op_parallelism_threads=options.tensorflow_inter_op_parallelism
            or options.tensorflow_session_parallelism,
        )
        self._models: dict[str, Model] = {}
        self._lock = threading.RLock()
        self._working = threading.Lock()
        """Held by whoever loads or unloads: the polling thread, or a reload of the configuration."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.configure(config)

    def start(self) -> None:
        """Start to look for new versions."""
        if self._options.file_system_poll_wait_seconds:
            self._thread = threading.Thread(target=self._poll, name="versions", daemon=True)
            self._thread.start()

    def _poll(self) -> None:
        while not self._stop.wait(self._options.file_system_poll_wait_seconds):
            try:
                self.look()
            except Exception:  # a thread that dies would stop looking silently
                log.exception("looking for versions failed; trying again")

    def configure(self, config: model_server_config_pb2.ModelServerConfig) -> None:
        """Serve these models from now on; returns when their versions are loaded.

        Raises:
            ServingError: a configuration that is not allowed (nothing has changed then), or a label of a version that
                is not there.
        """
        if config.WhichOneof("config") != "model_config_list":
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        entries = list(config.model_config_list.config)
        _check(entries)
        with self._working:
            with self._lock:
                for entry in entries:
                    known = self._models.get(entry.name)
                    if known and known.config.base_path == entry.base_path:
                        known.config = entry
                    elif known:
                        self._models[entry.name] = Model(entry)
                        self._retire(known)
                    else:
                        self._models[entry.name] = Model(entry)
                gone = [name for name in self._models if name not in {entry.name for entry in entries}]
                for name in gone:
                    self._retire(self._models.pop(name))
            self._look()
            self._label(entries)

    def _retire(self, model: Model) -> None:
        for number in model.available:
            threading.Thread(target=self._unload, args=(model, number), daemon=True).start()

    def _label(self, entries: list[model_server_config_pb2.ModelConfig]) -> None:
        any_version = self._options.allow_version_labels_for_unavailable_models
        for entry in entries:
            for version in entry.version_labels.values():
                if version not in self._models[entry.name].available and not any_version:
                    raise ServingError(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label to version {version} of model {entry.name}, which is not currently "
                        "available for inference",
                    )
        with self._lock:
            for entry in entries:
                self._models[entry.name].labels = dict(entry.version_labels)

    def look(self) -> None:
        """Load the versions that should be served, then unload those that should not."""
        with self._working:
            self._look()

    def _look(self) -> None:
        with self._lock:
            models = list(self._models.values())
        for model in models:
            aspired = model.aspired()
            for number in aspired:
                self._load(model, number)
            ready = [number for number in aspired if number in model.available]
            if not ready:
                continue  # what is served stays until something can take its place
            for number in model.available:
                if number not in aspired:
                    self._unload(model, number)

    def _load(self, model: Model, number: int) -> None:
        with self._lock:
            state = model.versions.get(number)
            if state is None or (state.state == END and state.error is None):
                state = model.versions[number] = VersionState()
            if state.state in (AVAILABLE, UNLOADING, LOADING):
                return
            if state.failures > self._options.max_num_load_retries or time.monotonic() < state.retry_at:
                return
            state.state = LOADING
        name, folder = model.config.name, model.folder(number)
        started = time.monotonic()
        try:
            loaded = LoadedVersion(name, number, folder, self._session_config)
            try:
                self._warm_up(loaded)
            except BaseException:
                loaded.close()
                raise
        except Exception as error:
            known = error if isinstance(error, ServingError) else ServingError(Code.INTERNAL, str(error))
            with self._lock:
                state.state, state.error, state.failures = END, known, state.failures + 1
                state.retry_at = time.monotonic() + max(0, self._options.load_retry_interval_micros) / 1e6
            log.warning("%s version %d cannot be loaded: %s", name, number, known.message)
            return
        freeze_gc()
        with self._lock:
            state.state, state.error, state.loaded = AVAILABLE, None, loaded
        log.info("%s version %d is served (loaded in %.1f s)", name, number, time.monotonic() - started)

    def _warm_up(self, loaded: LoadedVersion) -> None:
        if not self._options.enable_model_warmup:
            return
        started, code = time.monotonic(), Code.OK
        try:
            loaded.warm_up(self._options.num_request_iterations_for_warmup)
        except ServingError as error:
            code = error.code
            raise
        finally:
            self._metrics.warmed_up(str(loaded.folder), code, (time.monotonic() - started) * 1e6)

    def _unload(self, model: Model, number: int) -> None:
        with self._lock:
            state = model.versions[number]
            state.state, loaded, state.loaded = UNLOADING, state.loaded, None
        if loaded is not None:
            loaded.close()
            del loaded
            freeze_gc()
        with self._lock:
            state.state = END
        log.info("%s version %d is unloaded", model.config.name, number)

    @contextlib.contextmanager
    def version(self, spec: ModelSpec) -> Iterator[LoadedVersion]:
        """The version that a request names, held until it is answered.

        Raises:
            ServingError: NOT_FOUND, or INVALID_ARGUMENT for a label that is not there.
        """
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        with contextlib.ExitStack() as held:
            with self._lock:
                model = self._models.get(spec.name)
                number = chosen = self._number(model, spec)
                if model and chosen is None:
                    chosen = max(model.available, default=None)
                state = model.versions.get(chosen) if model and chosen is not None else None
                if state is None or state.state != AVAILABLE or state.loaded is None:
                    missing = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
                    raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {missing}")
                loaded = held.enter_context(state.loaded)
            yield loaded

    def _number(self, model: Model | None, spec: ModelSpec) -> int | None:
        if spec.label is None:
            return spec.version
        if model is None or spec.label not in model.labels:
            raise invalid(f"Unrecognized servable version label: {spec.label}")
        return model.labels[spec.label]

    def states(self, spec: ModelSpec) -> dict[int, VersionState]:
        """The versions of a model, newest first, or one of them. Raises `ServingError` where there is none."""
        with self._lock:
            model = self._models.get(spec.name)
            number = self._number(model, spec)
            states = model.versions if model else {}
            if number is not None:
                if number not in states:
                    raise ServingError(Code.NOT_FOUND, f"Could not find version {number} of model {spec.name}")
                return {number: states[number]}
            if not states:
                raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {spec.name}")
            return {key: states[key] for key in sorted(states, reverse=True)}

    def names(self) -> list[str]:
        """The models of the configuration."""
        with self._lock:
            return sorted(self._models)

    def has_model(self, name: str) -> bool:
        with self._lock:
            return name in self._models

    def failures(self) -> list[str]:
        """Errors of the models with no version to serve, one line each."""
        with self._lock:
            return [
                f"{name} version {number}: {state.error.message}"
                for name, model in self._models.items()
                if not model.available
                for number, state in model.versions.items()
                if state.error
            ]

    def close(self) -> None:
        """Unload everything; waits for requests that are under way."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        with self._working, self._lock:
            models = list(self._models.values())
        for model in models:
            for number in model.available:
                self._unload(model, number)


def _check(entries: list[model_server_config_pb2.ModelConfig]) -> None:
    names = [entry.name for entry in entries]
    for entry in entries:
        if names.count(entry.name) > 1:
            raise invalid(f"Illegal to list model {entry.name} multiple times in config list")
        if not entry.name:
            raise invalid("a model of the configuration has no name")
        if not entry.base_path:
            raise invalid(f"model {entry.name} has no base_path")
        if entry.model_platform not in ("", PLATFORM):
            raise invalid(f"Model {entry.name} requests unsupported platform {entry.model_platform}")


def freeze_gc() -> None:
    """Exclude the objects that are in memory now from garbage collection.

    Else the collector visits all of TensorFlow's objects each time the JSON of a request makes many new ones.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
