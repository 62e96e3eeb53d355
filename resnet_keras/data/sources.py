"""`open_source`: a name or a folder to labelled splits of images."""

from pathlib import Path

from resnet_keras.data.folder import list_folder
from resnet_keras.data.listing import Listing, open_listing
from resnet_keras.data.splits import Source
from resnet_keras.data.tfds_source import is_known, near_names, open_tfds
from resnet_keras.errors import UsageError


def open_source(data: str, data_dir: str | None = None, *, skip_damaged: bool = False) -> Source:
    """Open `data`: "digits", the name of a TensorFlow data set, or a folder of images.

    Args:
        data: a bare name is looked up in TensorFlow Datasets first, a path with a separator among the folders.
        data_dir: where TensorFlow Datasets keeps prepared data; its own default when None.
        skip_damaged: leave damaged files of a folder out; the source's `skipped` names them.

    Raises:
        UsageError: no such folder or name, nothing prepared and no network, unreadable images; the message names it.
    """
    listing = listing_of(data)
    if listing is not None:
        return open_listing(listing, skip_damaged)
    if is_known(data):
        return open_tfds(data, data_dir)
    if data and Path(data).expanduser().exists():
        raise UsageError(f"--data {data} is a file; give a folder of class/file or split/class/file")
    near = near_names(data)
    hint = f"; did you mean {', '.join(near)}" if near else ""
    raise UsageError(f"--data {data}: there is no such folder and no TensorFlow data set of that name{hint}")


def listing_of(data: str) -> Listing | None:
    """The image files of `data` where it is a folder of them; else None."""
    path = Path(data).expanduser()
    if data and path.is_dir() and ("/" in data or not is_known(data)):
        return list_folder(path)
    return None
