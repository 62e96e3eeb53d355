"""TensorFlow without its start-up messages. Standard library only, so that it can run before everything else."""

import os
import sys
import tempfile


def import_tensorflow() -> None:
    """Import TensorFlow and look at the devices, keeping to itself what they print meanwhile.

    Some of those lines come before TensorFlow reads TF_CPP_MIN_LOG_LEVEL, so standard error itself is held back; it is
    shown after all when the import fails. Does nothing where TensorFlow is imported already.
    """
    if "tensorflow" in sys.modules:
        return
    if os.environ.setdefault("KERAS_BACKEND", "tensorflow") != "tensorflow":
        raise ImportError("resnet_keras runs on Keras's tensorflow backend; unset KERAS_BACKEND")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow

            tensorflow.config.list_physical_devices()
        except BaseException:
            held.seek(0)
            os.write(real, held.read())
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)
