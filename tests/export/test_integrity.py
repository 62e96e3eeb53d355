"""A damaged servable is not served, though TensorFlow may load it and answer wrongly."""

import json
import random
import shutil
from pathlib import Path

import keras
import pytest
from serving_models import half_plus

import resnet_keras as rk
from resnet_keras.cli.main import main
from resnet_keras.errors import UsageError
from resnet_keras.export.integrity import MANIFEST, check_files

LABELS = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def servable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras.utils.set_random_seed(0)
    card = rk.ModelCard(mean=(0.3,), std=(0.4,))
    narrow = {"blocks": (1,), "widths": (4,), "stem_width": 4}
    model = rk.build_cifar_resnet(8, input_shape=(8, 8, 1), include_preprocessing=card, **narrow)
    return rk.export_servable(model, tmp_path_factory.mktemp("saved_models") / "digits", labels=LABELS)


@pytest.fixture
def copy(servable: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(servable, tmp_path / "digits" / "1"))


def test_what_was_exported_passes(servable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_files(servable) == 3  # the graph, the labels, the warm-up requests
    assert main(["verify", str(servable)]) == 0
    assert capsys.readouterr().out == f"{servable}: 3 files as they were exported\n"
    assert main(["verify", str(servable.parent), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"files": {str(servable): 3}}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["a bit", "a page of zeros", "two pages swapped", "cut off"])
def test_each_damage_is_seen(copy: Path, kind: str, seed: int) -> None:
    drawn = random.Random(seed)
    path = copy / "saved_model.pb"
    data = bytearray(path.read_bytes())
    size, page = len(data), 512
    place = drawn.randrange(size - 2 * page)
    match kind:
        case "a bit":
            data[place] ^= 1 << drawn.randrange(8)
        case "a page of zeros":
            data[place : place + page] = b"\1" * page if not any(data[place : place + page]) else bytes(page)
        case "two pages swapped":
            data[:page], data[-page:] = data[-page:], data[:page]
        case "cut off":
            del data[place:]
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"is not as it was exported: its SHA-256 differs"):
        check_files(copy)


def test_what_is_missing_or_new_is_named(copy: Path) -> None:
    (copy / "variables").mkdir()
    (copy / "variables" / "strange").write_text("")
    with pytest.raises(UsageError, match="variables/strange was not exported with the others"):
        check_files(copy)
    shutil.rmtree(copy / "variables")
    (copy / "assets" / "labels.txt").unlink()
    with pytest.raises(UsageError, match="labels.txt is missing"):
        check_files(copy)


@pytest.mark.parametrize("text", ["", '{"sha256": ', "[]", "\0"])
def test_a_damaged_manifest_is_named(copy: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / MANIFEST).write_text(text)
    assert main(["verify", str(copy)]) == 2
    said = capsys.readouterr().err
    assert "manifest.json" in said
    assert "Traceback" not in said


def test_servables_of_0_1_and_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_files(Path(__file__).parents[1] / "v0_1" / "servable" / "1") == 1
    half_plus(2, tmp_path / "half" / "1")
    assert main(["verify", str(tmp_path / "half")]) == 0
    assert "no manifest to compare with" in capsys.readouterr().out
    assert main(["verify", str(tmp_path)]) == 2
    assert "there is no servable in" in capsys.readouterr().err
