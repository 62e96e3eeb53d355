"""`open_source`: a name, a folder or a table to labelled splits of images."""

from pathlib import Path

from resnet_keras.data.folder import list_folder
from resnet_keras.data.listing import Listing, open_listing
from resnet_keras.data.splits import Source
from resnet_keras.data.table import SUFFIXES, list_table
from resnet_keras.data.tfds_source import is_known, near_names, open_tfds
from resnet_keras.errors import UsageError
from resnet_keras.remote.copies import local


def open_source(data: str, data_dir: str | None = None, *, skip_damaged: bool = False) -> Source:
    """Open `data`: "digits", the name of a TensorFlow data set, a folder of images, or a table that names them.

    Args:
        data: a bare name is looked up in TensorFlow Datasets first, a path with a separator among the folders. A URL
            such as `s3://bucket/images` is copied to this machine first; of a table, all of the folder it is in.
        data_dir: where TensorFlow Datasets keeps prepared data; its own default when None. Of a URL what is prepared
            there is copied.
        skip_damaged: leave damaged files of a folder or a table out; the source's `skipped` names them.

    Raises:
        UsageError: no such folder or name, nothing prepared and no network, unreadable images; the message names it.
    """
    listing = listing_of(data)
    if listing is not None:
        return open_listing(listing, skip_damaged)
    if is_known(data):
        return open_tfds(data, data_dir)
    if data and Path(data).expanduser().exists():
        raise UsageError(
            f"--data {data} is a file; give a folder of class/file or split/class/file, a .csv or a .parquet"
        )
    near = near_names(data)
    hint = f"; did you mean {', '.join(near)}" if near else ""
    raise UsageError(f"--data {data}: there is no such folder and no TensorFlow data set of that name{hint}")


def listing_of(data: str) -> Listing | None:
    """The image files of `data` where it is a folder or a table of them; else None."""
    data = local(data, beside=Path(data).suffix.lower() in SUFFIXES)
    path = Path(data).expanduser()
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        if not path.is_file():
            raise UsageError(f"--data {data}: there is no such file")
        return list_table(path)
    if data and path.is_dir() and ("/" in data or not is_known(data)):
        return list_folder(path)
    return None
