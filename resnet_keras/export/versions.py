"""Version folders and `models.config`: what TensorFlow Serving sees of our exports, whole or not at all.

`<models>/<name>/<version>/` are servables; `<models>/models.config` names those that are served. `canary` is the newest
version, `stable` the one that was newest before it.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from resnet_keras.errors import UsageError, reason, require
from resnet_keras.files import cannot_write, write_text, writing_to

CONFIG = "models.config"
SERVED_AT = "/models"
"""Where TensorFlow Serving's container has the folder of models."""
STAGING = ".export-"


def versions_in(base: Path) -> list[int]:
    """The version numbers in a model's folder, rising."""
    return sorted(int(child.name) for child in base.glob("*") if child.name.isdecimal())


def next_version(base: Path, version: int | None) -> int:
    """The requested version, or the next free one. Raises `UsageError` for one that exists."""
    taken = versions_in(base)
    if version is None:
        return max(taken, default=0) + 1
    require(1 <= version < 2**63, "version", "at least 1 and below 2**63", version)
    if version in taken:
        raise UsageError(f"version {version} exists in {base}; leave --version out for {max(taken) + 1}")
    return version


def publish(base: Path, version: int | None, write: Callable[[Path], None]) -> Path:
    """Have `write` fill a folder, which becomes a version of the model at once; after an error nothing is left.

    TensorFlow Serving ignores a folder whose name is not a number, and a rename makes it a version at once. A process
    that is killed leaves a folder that nothing serves, which the next export removes. `models.config` then has the new
    version as `canary`, and the one that was newest as `stable`.

    Returns:
        The version folder.
    """
    next_version(base, version)
    _read(base.parent / CONFIG)  # what it refuses, it refuses before anything is written
    made, beside = not base.exists(), None
    try:
        base.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            with _locked(base, wait=True):  # else another export could take the new folder for an abandoned one
                _remove_abandoned(base)
                beside = Path(tempfile.mkdtemp(prefix=STAGING, dir=base))
                held.enter_context(_locked(beside))
            write(beside)
            for path in beside.rglob("*"):
                with _opened(path) as descriptor:
                    os.fsync(descriptor)  # else a power cut can leave the new name with nothing behind it
            beside.chmod(0o755)
            return _rename_and_record(beside, base, version)
    except OSError as error:
        raise cannot_write(base, error) from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):  # it holds a version, or another export's
                base.rmdir()


def _rename_and_record(beside: Path, base: Path, version: int | None) -> Path:
    """Make a folder the requested version, or the next free one; both it and `models.config` change, or neither."""
    with _locked(base.parent, wait=True):
        path = base.parent / CONFIG
        config, number = _read(path), next_version(base, version)
        entry = _entry(config, base)
        served = entry.model_version_policy.specific.versions
        stable = max((v for v in served if (base / str(v)).is_dir()), default=number)
        _serve(entry, stable, number)
        folder = base / str(number)
        os.rename(beside, folder)
        try:
            write_text(path, text_format.MessageToString(config))
        except OSError:
            os.rename(folder, beside)
            raise
        return folder


def _remove_abandoned(base: Path) -> None:
    """Remove what killed exports left; an export that is running holds the lock of its folder."""
    for left in base.glob(f"{STAGING}*"):
        with contextlib.suppress(OSError), _locked(left):
            shutil.rmtree(left)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process, until it ends. Raises OSError where another process holds it."""
    with _opened(folder) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def rollback(models: str | Path, name: str) -> tuple[int, int]:
    """Take a model's newest served version out of service, for the one before it. The version folder stays.

    Args:
        models: the folder of `models.config`.
        name: of the model.

    Returns:
        The version that is served no more, and the one that is served now, as `stable` and as `canary`.

    Raises:
        UsageError: no such model, or no version before the one that is served.
    """
    folder = Path(models).expanduser()
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    base, path = folder / name, folder / CONFIG
    with writing_to(folder), _locked(folder, wait=True):
        config = _read(path)
        known = [entry.name for entry in config.model_config_list.config]
        if name not in known:
            raise UsageError(f"{path} names no model {name}; it names {', '.join(known) or 'none'}")
        entry = _entry(config, base)
        served = [*entry.model_version_policy.specific.versions] or versions_in(base)[-1:]
        newest = entry.version_labels.get("canary", max(served, default=0))
        # One that was taken out of service before is no version to go back to, while `stable` is there.
        stable = entry.version_labels.get("stable", newest)
        earlier = [stable] if stable != newest else [v for v in versions_in(base) if v < newest]
        if not earlier:
            raise UsageError(f"there is no version before {newest} in {base} to go back to")
        _serve(entry, earlier[-1], earlier[-1])
        write_text(path, text_format.MessageToString(config))
    return newest, earlier[-1]


def _serve(entry: model_server_config_pb2.ModelConfig, stable: int, canary: int) -> None:
    entry.model_version_policy.Clear()
    entry.model_version_policy.specific.versions.extend(sorted({stable, canary}))
    entry.version_labels.clear()
    entry.version_labels.update(stable=stable, canary=canary)


def _entry(config: model_server_config_pb2.ModelServerConfig, base: Path) -> model_server_config_pb2.ModelConfig:
    """The model's own entry, which is made where there is none."""
    for entry in config.model_config_list.config:
        if entry.name == base.name:
            return entry
    return config.model_config_list.config.add(
        name=base.name, base_path=f"{SERVED_AT}/{base.name}", model_platform="tensorflow"
    )


def _read(path: Path) -> model_server_config_pb2.ModelServerConfig:
    config = model_server_config_pb2.ModelServerConfig()
    if path.exists():
        try:
            text_format.Parse(path.read_text("utf-8"), config)
        except (OSError, text_format.ParseError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is not a configuration of models: {reason(error)}") from error
    return config
