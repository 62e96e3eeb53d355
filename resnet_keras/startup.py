"""TensorFlow without its start-up messages, and without the memory that it is done with.

Standard library only, so that it can run before everything else.
"""

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator

from resnet_keras.errors import UsageError


def import_tensorflow() -> None:
    """Import TensorFlow and look at the devices, keeping to itself what they print meanwhile.

    Some of those lines come before TensorFlow reads TF_CPP_MIN_LOG_LEVEL, so standard error itself is held back. Does
    nothing where TensorFlow is imported already. Raises ImportError for another backend of Keras than tensorflow, and
    `UsageError` where no temporary file can be written.
    """
    if "tensorflow" in sys.modules:
        return
    if os.environ.setdefault("KERAS_BACKEND", "tensorflow") != "tensorflow":
        raise ImportError("resnet_keras runs on Keras's tensorflow backend; unset KERAS_BACKEND")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UsageError(
            "TensorFlow needs temporary files, and /tmp is full or cannot be written to: free space there, "
            "or set TMPDIR to another folder"
        ) from error
    with standard_error_held():
        import tensorflow

        tensorflow.config.list_physical_devices()


def return_memory() -> None:
    """Give freed memory back to the system. glibc keeps it, and TensorFlow's rewriting of a graph leaves gigabytes."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextlib.contextmanager
def standard_error_held() -> Iterator[None]:
    """Hold back what libraries write to standard error themselves; show it after all where an error passes."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:  # but not where the user interrupts it
            held.seek(0)
            os.write(real, held.read())
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)
