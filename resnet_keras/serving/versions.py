"""A model of the configuration: the versions that its folder has, that are asked for, and that are in memory."""

import contextlib
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tensorflow_serving.config import model_server_config_pb2

from resnet_keras.errors import reason
from resnet_keras.remote.cache import cache_folder
from resnet_keras.remote.stores import RemoteError, is_remote, open_store
from resnet_keras.remote.versions import complete_versions
from resnet_keras.serving.loaded import LoadedVersion
from resnet_keras.serving.status import Code, ServingError

START, LOADING, AVAILABLE, UNLOADING, END = "START", "LOADING", "AVAILABLE", "UNLOADING", "END"
"""The states of a version, by the names of GetModelStatusResponse."""


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


@dataclass
class Failure:
    """Of a folder that could not be loaded, as it was then."""

    error: ServingError
    identity: object
    count: int
    retry_at: float


@dataclass
class Model:
    """A model of the configuration, and its versions, unloaded ones too."""

    config: model_server_config_pb2.ModelConfig
    versions: dict[int, VersionState] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    """Those of the configuration whose versions are loaded, or have been."""
    failures: dict[Path, Failure] = field(default_factory=dict)
    working: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever loads or unloads: a model never waits for another."""
    gone: threading.Event = field(default_factory=threading.Event)
    """It is in the configuration no longer."""

    @property
    def available(self) -> list[int]:
        return sorted(number for number, state in self.versions.items() if state.state == AVAILABLE)

    def serves(self, number: int, folder: Path) -> bool:
        state = self.versions.get(number)
        return (
            state is not None
            and state.state == AVAILABLE
            and state.loaded is not None
            and state.loaded.folder == folder
        )

    def aspired(self) -> dict[int, Path]:
        """The versions that should be served and their folders, rising. TensorFlow takes 3 and 003 for the same.

        Raises:
            ServingError: NOT_FOUND where there is none.
        """
        name, base = self.config.name, self.config.base_path
        try:
            found = _folders_of(base)
        except (OSError, RemoteError) as error:
            words = f"Could not find base path {base} for servable {name}: {reason(error)}"
            raise ServingError(Code.NOT_FOUND, words) from error
        policy = self.config.model_version_policy
        kind = policy.WhichOneof("policy_choice")
        numbers = sorted(found)
        if kind == "specific":
            numbers = [number for number in numbers if number in set(policy.specific.versions)]
        elif kind != "all":
            numbers = numbers[-max(1, policy.latest.num_versions) :]
        if not numbers:
            raise ServingError(Code.NOT_FOUND, f"No versions of servable {name} found under base path {base}")
        return {number: found[number] for number in numbers}

    def fault(self) -> ServingError | None:
        """Why no version of its folder is served; None where one is."""
        try:
            aspired = self.aspired()
        except ServingError as error:
            return error
        if any(self.serves(number, folder) for number, folder in aspired.items()):
            return None
        number, folder = max(aspired.items())
        failure = self.failures.get(folder)
        code, words = (failure.error.code, failure.error.message) if failure else (Code.UNAVAILABLE, "not loaded")
        return ServingError(code, f"{self.config.name} version {number}: {words}")


def _folders_of(base: str) -> dict[int, Path]:
    """The version folders of a base path; of a remote one, where the copies of its complete versions are to be."""
    if is_remote(base):
        copies = cache_folder(base)
        return {number: copies / str(number) for number in complete_versions(open_store(base)) if number < 2**63}
    return {int(c.name): c for c in Path(base).iterdir() if _is_number(c.name) and c.is_dir()}


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and int(name) < 2**63


def identity_of(folder: Path) -> object:
    """What is another where a folder is replaced or its model written again."""
    seen = []
    for path in (folder, folder / "saved_model.pb", folder / "variables" / "variables.index"):
        with contextlib.suppress(OSError):
            found = path.stat()
            seen.append((found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size))
    return seen
