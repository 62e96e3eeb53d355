"""Object stores: gs:// by TensorFlow's own file system, s3:// and others by fsspec where it is installed.

What is written is one object, whole or not at all; nothing is renamed, which object stores cannot.
"""

import contextlib
import importlib
import re
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from resnet_keras.errors import UsageError, reason
from resnet_keras.startup import import_tensorflow

OTHERS = ("grpc", "hf", "http", "https")
"""Schemes that have a meaning of their own elsewhere."""
WITH_FOLDERS = {"file", "local", "sftp", "ssh", "smb", "hdfs", "webhdfs", "ftp"}
"""File systems of fsspec's whose folders must be made, and where a file can be seen half written."""
THREADS = 8


class RemoteError(UsageError):
    """A store refuses, or does not answer."""


class Store(Protocol):
    """A folder of an object store. Names are those of objects below it. All raise `RemoteError`."""

    url: str

    def files(self, under: str = "") -> dict[str, str]:
        """Every object below, by its name, and what is another where it is written again."""
        ...

    def read(self, name: str) -> bytes | None:
        """The content of an object; None where there is none."""
        ...

    def write(self, name: str, content: bytes) -> None: ...

    def create(self, name: str, content: bytes) -> bool:
        """Write an object unless it is there. Returns whether it was not."""
        ...

    def upload(self, path: Path, name: str) -> None: ...

    def download(self, name: str, path: Path) -> None: ...

    def remove(self, name: str) -> None: ...


def is_remote(place: object) -> TypeGuard[str]:
    """Whether a text names a folder or file of a store, such as `s3://bucket/run`.

    Examples:
        >>> is_remote("gs://bucket/run"), is_remote("runs/digits"), is_remote("hf://owner/name")
        (True, False, False)
    """
    found = re.match(r"([a-z][a-z0-9+.-]*)://", place) if isinstance(place, str) else None
    return found is not None and found[1] not in OTHERS


def open_store(url: str) -> Store:
    """The store of a URL. Raises `UsageError` for a scheme that is not known, or whose library is not installed."""
    scheme, _, rest = url.partition("://")
    if not rest.strip("/"):
        raise UsageError(f"{url} names no bucket; give {scheme}://BUCKET/FOLDER")
    return TensorFlowStore(url) if scheme == "gs" else FsspecStore(url, scheme)


@contextlib.contextmanager
def _answering(doing: str, url: str) -> Iterator[None]:
    """Within it whatever a store's library raises is a `RemoteError` of one line."""
    try:
        yield
    except (UsageError, BrokenPipeError):
        raise
    except Exception as error:  # of the library, of its HTTP client, of its credentials: dozens of kinds
        raise RemoteError(
            f"cannot {doing} {url}: {reason(error)}; check its name, the credentials and the network"
        ) from error


class FsspecStore:
    """A folder by fsspec."""

    def __init__(self, url: str, scheme: str) -> None:
        try:
            fsspec: Any = importlib.import_module("fsspec")
        except ModuleNotFoundError as error:
            raise UsageError(
                f"{scheme}:// needs fsspec, which is not installed: pip install 'resnet-keras[remote]'"
            ) from error
        known = importlib.import_module("fsspec.registry").known_implementations
        try:
            kind = fsspec.get_filesystem_class(scheme)
        except ValueError as error:
            raise UsageError(f"{url}: no file system is called {scheme}://; try s3://, gs:// or abfs://") from error
        except ImportError as error:
            package = known[scheme]["class"].split(".")[0]
            wanted = "'resnet-keras[remote]'" if package == "s3fs" else package
            raise UsageError(f"{scheme}:// needs {package}, which is not installed: pip install {wanted}") from error
        self.url, self._folders = url.rstrip("/"), scheme in WITH_FOLDERS
        with _answering("use", url):
            # A listing that is kept would hide what others write.
            self._files: Any = fsspec.filesystem(scheme, **kind._get_kwargs_from_urls(url), use_listings_cache=False)
            self._root = str(kind._strip_protocol(url)).rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def files(self, under: str = "") -> dict[str, str]:
        with _answering("list", self.url):
            try:
                found = self._files.find(self._path(under), detail=True)
            except FileNotFoundError:
                found = {}
        cut = len(self._root) + 1
        return {path[cut:]: _tag(info) for path, info in found.items() if not path.endswith("/")}

    def read(self, name: str) -> bytes | None:
        with _answering("read", f"{self.url}/{name}"):
            try:
                return self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        with _answering("write to", self.url), self._whole(name) as path:
            self._files.pipe_file(path, content)

    def create(self, name: str, content: bytes) -> bool:
        with _answering("write to", self.url):
            self._make_folder(name)
            try:
                self._files.pipe_file(self._path(name), content, mode="create")
            except FileExistsError:
                return False
        return True

    def upload(self, path: Path, name: str) -> None:
        with _answering("write to", self.url), self._whole(name) as there:
            self._files.put_file(str(path), there)

    def download(self, name: str, path: Path) -> None:
        with _answering("read", f"{self.url}/{name}"):
            self._files.get_file(self._path(name), str(path))

    def remove(self, name: str) -> None:
        with _answering("write to", self.url):
            self._files.rm_file(self._path(name))

    def _make_folder(self, name: str) -> None:
        if self._folders:
            self._files.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)

    @contextlib.contextmanager
    def _whole(self, name: str) -> Iterator[str]:
        """The path to write to: the object's own, or one beside it that takes its place where there are folders."""
        path = self._path(name)
        if not self._folders:
            yield path
            return
        self._make_folder(name)
        folder, _, last = path.rpartition("/")
        beside = f"{folder}/.part-{uuid.uuid4().hex}-{last}"
        yield beside
        self._files.mv(beside, path)


def _tag(info: dict[str, Any]) -> str:
    changed = next(
        (info[key] for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created") if key in info), ""
    )
    return f"{info.get('size')} {changed}"


class TensorFlowStore:
    """A folder of Google Cloud Storage, by the file system that TensorFlow has of it."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        import_tensorflow()
        self._tf: Any = importlib.import_module("tensorflow")

    def _path(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def files(self, under: str = "") -> dict[str, str]:
        gfile, cut = self._tf.io.gfile, len(self.url) + 1
        with _answering("list", self.url):
            try:
                walked = list(gfile.walk(self._path(under), onerror=_raise))
            except self._tf.errors.NotFoundError:
                return {}
            paths = [f"{folder.rstrip('/')}/{file}" for folder, _, files in walked for file in files]

            def tag(path: str) -> str:
                found = gfile.stat(path)
                return f"{found.length} {found.mtime_nsec}"

            with ThreadPoolExecutor(THREADS) as pool:
                return dict(zip((path[cut:] for path in paths), pool.map(tag, paths), strict=True))

    def read(self, name: str) -> bytes | None:
        # By a copy: the length of a file that is opened is out of a cache of some seconds.
        with tempfile.TemporaryDirectory() as folder, _answering("read", self._path(name)):
            path = Path(folder, "content")
            try:
                self._tf.io.gfile.copy(self._path(name), str(path))
            except self._tf.errors.NotFoundError:
                return None
            return path.read_bytes()

    def write(self, name: str, content: bytes) -> None:
        with _answering("write to", self.url), self._tf.io.gfile.GFile(self._path(name), "wb") as file:
            file.write(content)

    def create(self, name: str, content: bytes) -> bool:
        """As of `Store`, but of two at the same moment both may write: TensorFlow has no way to ask for more."""
        with _answering("read", self._path(name)):
            if self._tf.io.gfile.exists(self._path(name)):
                return False
        self.write(name, content)
        return True

    def upload(self, path: Path, name: str) -> None:
        with _answering("write to", self.url):
            self._tf.io.gfile.copy(str(path), self._path(name), overwrite=True)

    def download(self, name: str, path: Path) -> None:
        with _answering("read", self._path(name)):
            self._tf.io.gfile.copy(self._path(name), str(path), overwrite=True)

    def remove(self, name: str) -> None:
        with _answering("write to", self.url):
            self._tf.io.gfile.remove(self._path(name))


def _raise(error: Exception) -> None:
    raise error
