"""The versions in memory: those of the folders that the configuration names.

A new version is loaded and warmed up before an old one is unloaded. Where no new one can be loaded, the old one
stays (TensorFlow Serving's AvailabilityPreservingPolicy).
"""

import contextlib
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow_serving.config import model_server_config_pb2

from resnet_keras.errors import UsageError
from resnet_keras.export.integrity import check_files
from resnet_keras.remote.stores import is_remote
from resnet_keras.remote.versions import fetch_version, forget_version
from resnet_keras.serving import garbage
from resnet_keras.serving.loaded import LoadedVersion
from resnet_keras.serving.metrics import Metrics
from resnet_keras.serving.options import ServerOptions
from resnet_keras.serving.status import Code, ServingError, invalid
from resnet_keras.serving.versions import (
    AVAILABLE,
    END,
    LOADING,
    UNLOADING,
    Failure,
    Model,
    ModelSpec,
    VersionState,
    identity_of,
)
from resnet_keras.startup import return_memory

log = logging.getLogger(__name__)
PLATFORM = "tensorflow"
MOST_ENDED = 16
"""Unloaded versions of a model whose state is kept."""
MOST_NAMED = 10
"""Models in a message."""


def _few(names: Sequence[str]) -> str:
    """Names in a message, of many the first."""
    more = len(names) - MOST_NAMED
    return ", ".join([*names[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])]) or "none"


class Manager:
    """Loads and unloads versions, each model on a thread of its own, and lends loaded ones to any number of threads.

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
        self._gone: dict[str, Model] = {}
        """Models that were removed, for their states."""
        self._lock = threading.RLock()
        self._configuring = threading.Lock()
        self._stop = threading.Event()
        self._watching = False
        self._threads: list[threading.Thread] = []
        """Those that watch a model's folder or unload a version, and have not ended when last looked at."""
        self._apply(config)

    def start(self) -> None:
        """Start to look for new versions."""
        if self._options.file_system_poll_wait_seconds:
            with self._lock:
                self._watching = True
                models = list(self._models.values())
            for model in models:
                self._begin(self._watch, model)

    def _begin(self, work: Callable[..., None], model: Model, *more: Any) -> threading.Thread:
        thread = threading.Thread(target=work, args=(model, *more), name=model.config.name, daemon=True)
        with self._lock:
            self._threads = [known for known in self._threads if known.is_alive()]
            thread.start()
            self._threads.append(thread)
        return thread

    def _watch(self, model: Model) -> None:
        while not (self._stop.wait(self._options.file_system_poll_wait_seconds) or model.gone.is_set()):
            try:
                self._reconcile(model)
            except Exception:  # a thread that dies would stop looking silently
                log.exception("looking for versions of %s failed; trying again", model.config.name)

    def configure(self, config: model_server_config_pb2.ModelServerConfig) -> None:
        """Serve these models from now on; returns when their versions are loaded.

        What was served under a name stays until a version of its new folder can take its place.

        Raises:
            ServingError: a configuration that is not allowed (nothing has changed then), a model none of whose
                versions can be loaded, or a label of a version that is not there.
        """
        if config.WhichOneof("config") != "model_config_list":
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        entries = self._apply(config)
        with self._lock:
            models = [self._models[entry.name] for entry in entries if entry.name in self._models]
        for fault in filter(None, (model.fault() for model in models)):
            raise fault

    def _apply(self, config: model_server_config_pb2.ModelServerConfig) -> list[model_server_config_pb2.ModelConfig]:
        entries = list(config.model_config_list.config)
        _check(entries)
        with self._configuring:
            with self._lock:
                new = [entry.name for entry in entries if entry.name not in self._models]
                for entry in entries:
                    if entry.name in new:
                        self._models[entry.name] = Model(entry)
                    else:
                        self._models[entry.name].config = entry
                gone = [name for name in self._models if name not in {entry.name for entry in entries}]
                for name in gone:
                    self._gone[name] = self._models.pop(name)
                    self._begin(self._retire, self._gone[name])
                while len(self._gone) > MOST_ENDED:
                    del self._gone[next(iter(self._gone))]
            self.look()
            if self._watching:
                for name in new:
                    self._begin(self._watch, self._models[name])
            self._check_labels(entries)
        return entries

    def _retire(self, model: Model) -> None:
        model.gone.set()
        with model.working:
            for number in model.available:
                self._unload(model, number)

    def _check_labels(self, entries: list[model_server_config_pb2.ModelConfig]) -> None:
        for entry in entries:
            for label, version in entry.version_labels.items():
                if self._models[entry.name].labels.get(label) != version:
                    raise ServingError(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label to version {version} of model {entry.name}, which is not currently "
                        "available for inference",
                    )

    def look(self) -> None:
        """Load the versions that should be served, then unload those that should not; all models at once."""
        with self._lock:
            models = list(self._models.values())
        threads = [self._begin(self._reconcile, model) for model in models]
        for thread in threads:
            thread.join()

    def _reconcile(self, model: Model) -> None:
        """Make what is there what is asked for."""
        with model.working:
            try:
                aspired = model.aspired()
            except ServingError:
                aspired = {}  # what is served stays until something can take its place
            for folder in [folder for folder in model.failures if folder not in aspired.values()]:
                del model.failures[folder]
                self._metrics.forget(str(folder))
            for number, folder in aspired.items():
                if model.gone.is_set() or self._stop.is_set():
                    return
                self._load(model, number, folder)
            if any(model.serves(number, folder) for number, folder in aspired.items()):
                for number in model.available:
                    if number not in aspired:
                        self._unload(model, number)
            self._label(model)

    def _label(self, model: Model) -> None:
        """A label goes to its version when that is there, and stays where it was until then.

        The flag is for new labels: one that is in force is not taken from a version that answers.
        """
        any_version = self._options.allow_version_labels_for_unavailable_models
        with self._lock:
            available, before = set(model.available), model.labels
            labels = {
                label: version if version in available or (any_version and label not in before) else before.get(label)
                for label, version in model.config.version_labels.items()
            }
            model.labels = {label: version for label, version in labels.items() if version is not None}

    def _load(self, model: Model, number: int, folder: Path) -> None:
        if model.serves(number, folder):  # nearly always: each look would ask the disk in vain
            return
        identity, failure = identity_of(folder), model.failures.get(folder)
        if failure and failure.identity != identity:
            failure = None  # it was replaced: as if never tried
        if failure and (failure.count > self._options.max_num_load_retries or time.monotonic() < failure.retry_at):
            return
        with self._lock:
            state = model.versions.get(number)
            if state is None or state.state not in (AVAILABLE, UNLOADING):
                state = model.versions[number] = VersionState(LOADING)
        name, started = model.config.name, time.monotonic()
        try:
            self._fetch(model.config.base_path, number, folder)
            loaded = LoadedVersion(name, number, folder, self._session_config)
            try:
                self._warm_up(loaded)
            except BaseException:
                loaded.close()
                raise
        except Exception as error:
            code = Code.DATA_LOSS if isinstance(error, UsageError) else Code.INTERNAL
            known = error if isinstance(error, ServingError) else ServingError(code, str(error))
            retry_at = time.monotonic() + max(0, self._options.load_retry_interval_micros) / 1e6
            model.failures[folder] = Failure(known, identity, failure.count + 1 if failure else 1, retry_at)
            with self._lock:
                if state.state == LOADING:
                    state.state, state.error = END, known
            log.warning("%s version %d cannot be loaded: %s", name, number, known.message)
            return
        model.failures.pop(folder, None)
        garbage.freeze()
        return_memory()
        with self._lock:
            before = state.loaded if state.state == AVAILABLE else None
            model.versions[number] = VersionState(AVAILABLE, None, loaded)
        log.info("%s version %d is served (loaded in %.1f s)", name, number, time.monotonic() - started)
        if before is not None:  # the same number of another folder
            self._begin(self._free, model, number, VersionState(loaded=before))

    def _fetch(self, base: str, number: int, folder: Path) -> None:
        """Have a version on this machine, as it was exported."""
        if is_remote(base):
            fetch_version(base, number)
        if self._options.verify_files:
            try:
                check_files(folder)
            except UsageError:
                if is_remote(base):  # the copy may be what is damaged
                    forget_version(folder)
                raise

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
        """Answer no more requests by a version, and free its memory when those under way are answered."""
        with self._lock:
            state = model.versions[number]
            state.state = UNLOADING
        self._begin(self._free, model, number, state)

    def _free(self, model: Model, number: int, state: VersionState) -> None:
        loaded, state.loaded = state.loaded, None
        assert loaded is not None
        loaded.close()
        self._metrics.forget(str(loaded.folder))
        del loaded
        if not self._stop.is_set():
            garbage.collect_all()
        with self._lock:
            state.state = END
            ended = sorted(key for key, known in model.versions.items() if known.state == END)
            for old in ended[:-MOST_ENDED]:
                del model.versions[old]
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
                    known = "" if model else f"; models here: {_few(sorted(self._models))}"
                    raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {missing}{known}")
                loaded = held.enter_context(state.loaded)
            yield loaded

    def _number(self, model: Model | None, spec: ModelSpec) -> int | None:
        if spec.label is None:
            return spec.version
        if model is None or spec.label not in model.labels:
            raise invalid(f"Unrecognized servable version label: {spec.label}")
        return model.labels[spec.label]

    def states(self, spec: ModelSpec) -> dict[int, VersionState]:
        """The versions of a model, newest first, or one of them. Raises `ServingError` where there is none.

        Also of a model that was removed; and of a label that is not there, as in TensorFlow Serving, all versions.
        """
        with self._lock:
            model = self._models.get(spec.name) or self._gone.get(spec.name)
            number = spec.version if spec.label is None or model is None else model.labels.get(spec.label)
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
        """Why a model has no version to serve, one line each."""
        with self._lock:
            models = list(self._models.values())
        return [fault.message for fault in (model.fault() for model in models) if fault]

    def close(self) -> None:
        """Unload everything; waits for requests that are under way."""
        self._stop.set()
        with self._lock:
            models = list(self._models.values())
        for model in models:
            self._retire(model)
        while threads := [thread for thread in self._threads if thread.is_alive()]:
            for thread in threads:
                thread.join()
        gc.unfreeze()  # as it was: the program may go on


def _check(entries: list[model_server_config_pb2.ModelConfig]) -> None:
    names = [entry.name for entry in entries]
    for entry in entries:
        if names.count(entry.name) > 1:
            raise invalid(f"Illegal to list model {entry.name} multiple times in config list")
        if not entry.name:
            raise invalid("a model of the configuration has no name")
        if not entry.base_path:
            raise invalid(f"model {entry.name} has no base_path")
        if entry.model_platform and entry.model_type:  # pyright: ignore[reportAttributeAccessIssue]
            raise invalid(
                f"Illegal setting both ModelServerConfig::model_type(deprecated) and model_platform of {entry.name}"
            )
        if entry.model_platform not in ("", PLATFORM):
            raise invalid(f"Model {entry.name} requests unsupported platform {entry.model_platform}")
