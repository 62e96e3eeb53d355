"""Files of the Hugging Face Hub: out of its cache, or fetched into it, and checked."""

import hashlib
import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from resnet_keras.errors import UsageError, needs_extra, reason
from resnet_keras.progress import Progress, has_display

SCHEME = "hf://"
NAME = r"\w[\w.-]*/[\w.-]+"
COMMIT = r"[0-9a-f]{40}"


@dataclass(frozen=True)
class Repository:
    """A repository of the Hub, at a revision: a branch, a tag or a commit."""

    name: str
    """`owner/name`."""
    revision: str | None = None
    """The main branch when None."""
    newest: bool = False
    """Ask the Hub for the newest files, and take those in the cache only where it does not answer."""

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name

    def file(self, name: str, hint: str = "look the name up there") -> Path:
        """The path of a file in the cache, fetched where it has to be.

        Raises `UsageError` where the repository has no such file, which ends in the `hint`, where there is no network,
        and for a damaged file.
        """
        with needs_extra(f"fetching {self}", "hub"):
            import huggingface_hub as hub
            from huggingface_hub import constants, errors
        cached = hub.try_to_load_from_cache(self.name, name, revision=self.revision)
        fixed = re.fullmatch(COMMIT, self.revision or "")
        if isinstance(cached, str) and (fixed or not self.newest or constants.HF_HUB_OFFLINE):
            return _checked(Path(cached))
        try:
            check_network()
            shown = {"tqdm_class": _bar_class(name)} if has_display() else {}
            return _checked(Path(hub.hf_hub_download(self.name, name, revision=self.revision, etag_timeout=5, **shown)))
        except UsageError:
            raise
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            token = "; a private repository needs a token: hf auth login" if not hub.get_token() else ""
            raise UsageError(f"the Hugging Face Hub has no {self}; look the name up there{token}") from error
        except errors.RemoteEntryNotFoundError as error:
            raise UsageError(f"the Hugging Face Hub has no {name} of {self}; {hint}") from error
        except Exception as error:  # no network, a proxy, a full disk: each has kinds of its own
            if isinstance(cached, str) and not isinstance(error, errors.HfHubHTTPError):
                return _checked(Path(cached))
            raise UsageError(
                f"cannot fetch {self}: {reason(error)}; {name} is not in the cache {constants.HF_HUB_CACHE} either: "
                "fetch it where there is a network, or give a file"
            ) from error

    def json(self, name: str) -> tuple[Any, "Repository"]:
        """A JSON file, and the repository at the very commit that it is of, so that other files are of the same."""
        path = self.file(name)
        commit = path.parent.name
        try:
            value = json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{name} of {self} is not JSON; remove it from the cache and try again") from error
        return value, Repository(self.name, commit) if re.fullmatch(COMMIT, commit) else self


def repository_of(source: Any) -> Repository | None:
    """The repository that a source names as `hf://owner/name` or `hf://owner/name@revision`; None for another source.

    Raises `UsageError` for `hf://` and anything else behind it.
    """
    if not isinstance(source, str) or not source.startswith(SCHEME):
        return None
    found = re.fullmatch(rf"({NAME})(?:@([\w./-]+))?", source.removeprefix(SCHEME))
    if not found:
        raise UsageError(f"{source} names no repository of the Hugging Face Hub; write hf://owner/name")
    return Repository(found[1], found[2], newest=True)


def _bar_class(name: str) -> Any:
    """A class of the client's own bars, which tells the progress of a file instead of drawing it."""
    from huggingface_hub.utils import tqdm

    class HubBar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self.task = Progress(f"fetching {name}", options.get("total"), "B")
            super().__init__(*args, **{**options, "leave": False})

        def display(self, *_: Any, **__: Any) -> None:
            self.task.to(self.n, total=self.total)

        def close(self) -> None:
            self.task.end()
            super().close()

    return HubBar


def check_network() -> None:
    """Raise OSError at once where there is no network to the Hub, which its own client tries for half a minute."""
    from huggingface_hub import constants

    if getproxies() or constants.HF_HUB_OFFLINE:  # which the client understands better
        return
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=5).close()
    except OSError as error:
        raise OSError(f"no network to {address.hostname} ({reason(error)})") from error


def _checked(file: Path) -> Path:
    """The Hub's cache names large files by their SHA-256, so a damaged one is found."""
    expected = file.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", expected):
        with file.open("rb") as data:
            if hashlib.file_digest(data, "sha256").hexdigest() != expected:
                raise UsageError(f"{file} is damaged: it is not what its name says; remove it and try again")
    return file
