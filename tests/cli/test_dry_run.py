"""What `train --dry-run` prints of its estimate."""

import pytest

from resnet_keras.cli.main import main
from resnet_keras.training import trainer


def test_a_line_a_reason_and_separators(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = {
        "model": "cifar_resnet20",
        "image_size": [64, 64],
        "multiply_adds": 162456732,
        "images_per_second": 1234.5,
        "chosen": ["start: the packaged net", "image size: 64"],
    }
    monkeypatch.setattr(trainer, "dry_run", lambda config: found)
    assert main(["train", "digits", "--dry-run"]) == 0
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "model                cifar_resnet20",
        "image size           64 x 64",
        "multiply adds        162,456,732",
        "images per second    1,234.5",
        "chosen               start: the packaged net",
        "                     image size: 64",
    ]
