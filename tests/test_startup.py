"""What is said before TensorFlow is imported."""

import sys
import tempfile

import pytest

from resnet_keras.errors import UsageError
from resnet_keras.startup import import_tensorflow


def test_a_machine_without_room_for_temporary_files_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp', '/usr/tmp', '/']")

    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(UsageError, match="/tmp is full or cannot be written to"):
        import_tensorflow()
