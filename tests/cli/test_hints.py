"""Wrong words are answered by the nearest right ones, in one line and before TensorFlow is imported."""

import inspect
import subprocess
import sys

import pytest

import resnet_keras as rk
from resnet_keras.cli.main import main
from resnet_keras.errors import UsageError, nearest
from resnet_keras.models.spec import BUILDER_ARGUMENTS


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("trian", "unknown command 'trian'; did you mean train"),
        ("train digit", "unknown recipe 'digit'; did you mean digits"),
        ("experiment gradiants", "unknown experiment 'gradiants'; choose from degradation, gradients"),
        ("train digits --lr 0.1", "unknown flag --lr; did you mean --learning-rate ("),
        ("train digits --lr=0.1", "unknown flag --lr; did you mean --learning-rate ("),
        ("train digits --bacth-size 3", "unknown flag --bacth-size; did you mean --batch-size"),
        ("train digits --bacth_size 3", "unknown flag --bacth_size; did you mean --batch-size"),
        ("train digits --bs 3", "unknown flag --bs; did you mean --batch-size ("),
        ("train digits --num-classes 3", "unknown flag --num-classes; the data says how many classes there are"),
        ("train digits --no-jsn", "unknown flag --no-jsn; did you mean --json"),
        ("evaluate --jsn", "unknown flag --jsn; did you mean --json"),  # not: MODEL is missing
        ("evaluate a --zzzzzz", "unknown flag --zzzzzz (see resnet-keras evaluate --help)"),
        ("tune digits --bugdet 1h", "unknown flag --bugdet; did you mean --budget"),
        ("serve --modle_name a", "unknown flag --modle_name; did you mean --model_name (see"),
        ("serve --modle-base-path a", "unknown flag --modle-base-path; did you mean --model_base_path (see"),
        ("serve --no_such_flag", "unknown flag --no_such_flag"),
        ("train digits --model resnet5", "unknown model 'resnet5'; did you mean resnet50"),
        ("train digits --epochs three", "--epochs must be a whole number, not 'three' (see"),
        ("train digits --learning-rate high", "--learning-rate must be a number, not 'high' (see"),
        ("train digits --learning-rate", "--learning-rate needs a value (see"),
        ("train digits --decay cosin", "unknown decay 'cosin'; choose from constant, step, linear, poly, cosine (see"),
        ("train digits --model-options shortcut", "--model-options takes names and values, NAME VALUE ... (see"),
        ("train digits too", "unexpected: too (see"),
        ("experiment gradients --depths", "depths must be at least one, not none (see"),
        ("serve --port", "--port needs a value (see"),
        ("evaluate cifar10-jpg", "there is no run folder or model at cifar10-jpg; packaged ones are cifar10-jpeg"),
        ("publish /nowhere someone/net", "there is no run folder or model at /nowhere"),
        ("export /nowhere --format tflite", "unknown format 'tflite'; did you mean litert"),
        ("export /nowhere --format savedmodel", "unknown format 'savedmodel'; choose from saved_model, onnx, litert"),
    ],
)
def test_the_nearest_word(words: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"resnet-keras: {hint}")
    assert err.count("\n") == 1


def test_auto_is_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "finetune", "--model", "auto", "--data", "/nowhere"]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_another_name_comes_before_spelling() -> None:
    assert nearest("num_classes", ["class_weights", "classes"]) == ["classes"]
    assert nearest("--output-dir", ["--run-dir", "--output"]) == ["--output", "--run-dir"]
    assert nearest("zzz", ["classes"]) == []


def test_arguments_of_builders() -> None:
    with pytest.raises(UsageError, match="unknown argument 'num_classes'; did you mean classes$"):
        rk.build_resnet(50, num_classes=10)
    taken = inspect.signature(rk.build_resnet).parameters
    assert tuple(taken)[2:-1] == BUILDER_ARGUMENTS


def test_a_wrong_name_does_not_wait_for_tensorflow() -> None:
    code = (
        "import sys; sys.argv = ['resnet-keras']\n"
        "from resnet_keras.cli.main import main\n"
        "for words in ('train digits --model resnet5', 'train digit', 'experiment gradint', 'export a --format b',\n"
        "              'evaluate none', 'predict none a.png', 'explain none a.png', 'export none', 'publish none a'):\n"
        "    assert main(words.split()) == 2\n"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 9


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "resnet_keras", "train", "digits", "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: resnet-keras train digits" in done.stdout
