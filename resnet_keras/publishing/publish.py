"""`publish`: a run or a model to a folder or a repository of the Hugging Face Hub."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnet_keras.config.run_folder import is_publication
from resnet_keras.errors import UsageError, require
from resnet_keras.files import writing_to
from resnet_keras.models.downloads import SCHEME, repository_of
from resnet_keras.models.weights.hub import is_hub_name
from resnet_keras.progress import progress
from resnet_keras.publishing.publication import FILES, Publication, read_publication
from resnet_keras.publishing.readme import model_card_text
from resnet_keras.publishing.upload import upload


@dataclass(frozen=True)
class Published:
    """What `publish` did.

    Examples:
        >>> published = rk.publish("runs/digits", "./published/digits")
        >>> "config.json" in published.files
        True
    """

    where: str
    """The folder, or the repository's address for a browser."""
    weights: str
    """What `load_model` and `load_weights` take: the folder, or `hf://owner/name`."""
    commit: str | None
    """On the Hub; None for a folder."""
    files: Mapping[str, int]
    """Their sizes in bytes."""
    timm: str | None
    """timm's name of the network, where timm can load it."""
    notes: tuple[str, ...]
    """What a reader of the model card will miss."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self)


def publish(
    source: str | Path,
    target: str | Path,
    *,
    license: str | None = None,
    private: bool = False,
    quiet: bool = True,
) -> Published:
    """Publish a trained network: `model.keras`, `model.safetensors`, `config.json` and a model card, `README.md`.

    The tensors have timm's names where timm has the same network, and then `timm.create_model` loads them; else they
    have ours. A model that is none of our networks has its `.keras` file alone. What is written names no folder and no
    user of this machine.

    Args:
        source: a run folder, a `.keras` file or a packaged name.
        target: a folder, which is written whole or not at all, or a repository of the Hugging Face Hub:
            `hf://owner/name`, or `owner/name` where there is no folder `owner` here. What was published there before
            is replaced.
        license: of the weights, such as "apache-2.0"; that of the weights they were trained from when None.
        private: a repository that only its owner sees.
        quiet: without progress on standard error.

    Raises:
        UsageError: nothing there to publish; a folder or repository with something else in it; no token, no network,
            or the Hub refuses.

    Examples:
        >>> published = rk.publish("runs/digits", "./published/digits", license="apache-2.0")
        >>> model = rk.load_model(published.weights)
        >>> rk.publish("runs/digits", "hf://someone/digits")  # doctest: +SKIP
    """
    target = str(target)
    on_hub = target.startswith(SCHEME) or (not target.startswith((".", "/", "~")) and is_hub_name(target))
    require(on_hub or not private, "private", "left out for a folder", True)
    if on_hub:
        repository = repository_of(target if target.startswith(SCHEME) else SCHEME + target)
        assert repository is not None
        require(repository.revision is None, "the repository", "given without a revision", target)
        publication = read_publication(source, license)
        with tempfile.TemporaryDirectory() as folder:
            files = _write(publication, Path(folder), f"{SCHEME}{repository.name}", repository.name.split("/")[1])
            url, commit = upload(Path(folder), repository.name, private=private, quiet=quiet)
        return _published(publication, url, f"{SCHEME}{repository.name}", commit, files)
    folder = Path(target).expanduser()
    _check_folder(folder)
    publication = read_publication(source, license)
    with _beside(folder) as stage:
        files = _write(publication, stage, folder.resolve().name, folder.resolve().name)
    return _published(publication, str(folder), str(folder), None, files)


def _write(publication: Publication, folder: Path, address: str, name: str) -> dict[str, int]:
    with progress("writing the files"):
        publication.write(folder, model_card_text(publication, address, name))
    return {file: (folder / file).stat().st_size for file in FILES if (folder / file).exists()}


def _published(
    publication: Publication, where: str, weights: str, commit: str | None, files: Mapping[str, int]
) -> Published:
    tensors, notes = publication.tensors, []
    if publication.interrupted:
        notes.append("the run was stopped before its end, and the card says so")
    if not publication.measured:
        notes.append("there are no figures: the run has no metrics.json, or the model's card none")
    if not publication.card.license:
        notes.append("no licence is stated; give one: --license apache-2.0")
    if tensors is None:
        notes.append("the model is none of our networks: only its .keras file is published")
    elif not tensors.timm:
        notes.append(f"timm cannot load it: {tensors.why_not}")
    return Published(where, weights, commit, files, tensors and tensors.timm, tuple(notes))


def _check_folder(folder: Path) -> None:
    """Raise `UsageError` for a folder that has anything but an earlier publication; hidden files may be there."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give a folder, or hf://owner/name for the Hub")
    with writing_to(folder):
        there = [file.name for file in folder.iterdir() if not file.name.startswith(".")] if folder.exists() else []
    strange = sorted(set(there) - set(FILES)) or (there if there and not is_publication(folder) else [])
    if strange:
        raise UsageError(f"{folder} has something else in it, such as {strange[0]}; give a new or an empty folder")


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder to write to, whose files take their place in `folder` at the end; after an error nothing has changed."""
    folder = folder.resolve()
    stage = folder.with_name(f".part-{folder.name}-{os.getpid()}")
    with writing_to(folder):
        stage.mkdir(parents=True)
    try:
        with writing_to(folder):
            yield stage
            if not folder.exists():
                os.rename(stage, folder)
                return
            for file in FILES:
                if (stage / file).exists():
                    os.replace(stage / file, folder / file)
                else:
                    (folder / file).unlink(missing_ok=True)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
