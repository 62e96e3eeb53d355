"""A folder's files to the Hugging Face Hub, in one commit."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnet_keras.config.run_folder import PUBLISHED
from resnet_keras.errors import UsageError, needs_extra, reason
from resnet_keras.models.downloads import Repository, check_network
from resnet_keras.models.weights.hub import CONFIG
from resnet_keras.publishing.publication import FILES
from resnet_keras.version import __version__

HARMLESS = {*FILES, ".gitattributes", ".gitignore", "LICENSE"}
"""What a repository may have beside or before a publication."""
MENDS = {
    401: "the Hub does not accept the token; make one that may write, and log in: hf auth login, or HF_TOKEN",
    402: "the Hub asks for a payment",
    403: "the token may not write there; check the owner's name, and that the token may write",
    404: "there is no such repository or owner, or the token may not see it",
    409: "somebody else has changed the repository meanwhile; publish again",
    412: "somebody else has changed the repository meanwhile; publish again",
    413: "a file is larger than the Hub takes",
    429: "the Hub takes no more requests for a while; publish again later",
}


def upload(folder: Path, name: str, *, private: bool, quiet: bool) -> tuple[str, str]:
    """Upload a publication's files; all of them in one commit, or none.

    Args:
        folder: has the files.
        name: `owner/name`; the repository is made where there is none.
        private: only the owner sees it.
        quiet: without progress on standard error.

    Returns:
        The repository's address for a browser, and the commit.

    Raises:
        UsageError: no token, no network, a repository with something else, or the Hub refuses.
    """
    with needs_extra("publish", "hub"):
        import huggingface_hub as hub
    if not hub.get_token():
        raise UsageError(
            f"publishing {name} on the Hub needs a token that may write: hf auth login, or HF_TOKEN=...; for a folder "
            f"write ./{name}"
        )
    try:
        check_network()
    except OSError as error:
        raise UsageError(f"cannot publish {name}: {reason(error)}") from error
    api = hub.HfApi(library_name="resnet-keras", library_version=__version__)
    made = False
    with _progress(shown=not quiet):
        try:
            made = not api.repo_exists(name)
            url = api.create_repo(name, private=True if private else None, exist_ok=True)
            info = api.model_info(name)
            files = {file.rfilename for file in info.siblings or []}
            if not made:
                _check(name, files, public=private and not info.private)
            new = [file for file in FILES if (folder / file).exists()]
            # `upload_folder` makes several commits where it likes to.
            commit = api.create_commit(
                name,
                [
                    *(hub.CommitOperationAdd(file, folder / file) for file in new),
                    *(hub.CommitOperationDelete(file) for file in FILES if file in files - set(new)),
                ],
                commit_message=f"Publish a network by resnet-keras {__version__}",
                parent_commit=info.sha,
            )
        except UsageError:
            raise
        except Exception as error:  # of the client, of its HTTP library, of threads that it starts
            left = f"; {name} was made, and has none of the files" if made and _exists(api, name) else ""
            raise UsageError(f"cannot publish {name}: {_why(error)}{left}") from error
    return str(url), str(commit.oid)


def _check(name: str, files: set[str], *, public: bool) -> None:
    """Raise `UsageError` for a repository that others see, or that has something else than a publication."""
    if public:
        raise UsageError(f"{name} is there and public; make it private on its page of settings, or give another name")
    config = Repository(name, newest=True).json(CONFIG)[0] if CONFIG in files else {PUBLISHED: {}}
    if strange := sorted(files - HARMLESS) or ([CONFIG] if PUBLISHED not in config else []):
        raise UsageError(
            f"{name} has something else than a network that was published before, such as {strange[0]}; "
            "give another name"
        )


def _exists(api: Any, name: str) -> bool:
    try:
        return bool(api.repo_exists(name))
    except Exception:
        return False


def _why(error: BaseException) -> str:
    """What went wrong, by the Hub's answer where there is one in the chain of errors."""
    chain = [error]
    while (earlier := chain[-1].__cause__) is not None:
        chain.append(earlier)
    status = next((n for one in chain if (n := getattr(getattr(one, "response", None), "status_code", None))), None)
    if status is None:
        return reason(chain[-1])
    said = " ".join(str(getattr(error, "server_message", None) or error).split())[:200]
    return f"{MENDS.get(status, 'publish again later' if status >= 500 else said)} (the Hub answered {status})"


@contextlib.contextmanager
def _progress(shown: bool) -> Iterator[None]:
    """The client's progress, and nothing else of what it says: an error is told once, by us."""
    from huggingface_hub import logging
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    verbosity, were_off = logging.get_verbosity(), are_progress_bars_disabled()
    logging.set_verbosity_error()
    if not shown:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if not shown and not were_off:
            enable_progress_bars()
