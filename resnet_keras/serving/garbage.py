"""What Python's garbage collector visits: else all of TensorFlow's objects, when the JSON of a request makes many."""

import gc


def freeze() -> None:
    """Exclude the objects that are in memory now, but for garbage."""
    gc.collect()
    gc.freeze()


def collect_all() -> None:
    """Free what was excluded and is garbage now: the objects of a version that has gone refer to one another."""
    gc.unfreeze()
    freeze()
