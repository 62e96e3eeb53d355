"""The program: what it prints, its exit codes, and one line for every wrong word or file."""

import contextlib
import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from forked import Server

import resnet_keras as rk
from resnet_keras.cli.main import COMMANDS, _parse, main
from resnet_keras.config.recipes import RECIPES
from resnet_keras.config.train import TrainConfig
from resnet_keras.models.around import classifier_around
from resnet_keras.version import __version__

Capture = pytest.CaptureFixture[str]


SMALL = ["--model-options", "blocks", "1,1,1", "widths", "8,8,8", "stem_width", "8"]
"""Flags that make a CIFAR net small: three blocks."""


def flags(config: TrainConfig) -> list[str]:
    """The quick config on the command line, with a small net."""
    sizes = ["--epochs", str(config.epochs), "--batch-size", str(config.batch_size)]
    return ["--data-dir", str(config.data_dir), *sizes, *SMALL]


@dataclasses.dataclass(frozen=True)
class Printed:
    """A command that was run, and what it printed."""

    folder: Path
    out: str
    err: str


def printed_by(folder: Path, *words: str) -> Printed:
    """Run a command that makes a folder."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        assert main(words) == 0
    return Printed(folder, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def trained(quick: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Printed:
    """A small run by `train`."""
    run = tmp_path_factory.mktemp("trained") / "run"
    return printed_by(run, "train", "digits", *flags(quick), "--run-dir", str(run), "--json")


@pytest.fixture(scope="module")
def exported(trained: Printed, tmp_path_factory: pytest.TempPathFactory) -> Printed:
    """That run by `export`."""
    output = tmp_path_factory.mktemp("saved") / "digits"
    return printed_by(output, "export", str(trained.folder), "--output", str(output), "--json")


def refused(capsys: Capture, *words: str) -> str:
    """The one line that a wrong command prints."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("resnet-keras: ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]


def test_help(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"resnet-keras {__version__}\n"
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in RECIPES)
    for name in COMMANDS:
        assert main([name, *(["digits"] if name == "train" else []), "--help"]) == 0
        out, err = capsys.readouterr()
        assert f"usage: resnet-keras {name}" in out
        assert err == ""


COMMON_FLAGS = {
    "demo": {"run-dir", "output", "data-dir", "seed", "quiet", "json"},
    "train": {"run-dir", "data-dir", "seed", "quiet", "json"},
    "tune": {"run-dir", "data-dir", "seed", "quiet", "json"},
    "data": {"output", "data-dir", "quiet", "json"},
    "evaluate": {"data-dir", "quiet", "json"},
    "compare": {"output", "json"},
    "predict": {"quiet", "json"},
    "explain": {"output", "quiet", "json"},
    "export": {"output", "data-dir", "quiet", "json"},
    "publish": {"quiet", "json"},
    "rollback": {"json"},
    "verify": {"json"},
    "serve": {"quiet"},
    "client": {"quiet", "json"},
    "degradation": {"run-dir", "data-dir", "seed", "quiet", "json"},
    "experiment": {"run-dir", "data-dir", "seed", "quiet", "json"},
    "benchmark": {"output", "data-dir", "quiet", "json"},
    "models": {"json"},
    "doctor": {"data-dir", "json"},
    "completion": set(),
}
MEANINGS = {
    "run-dir": r"[Rr]un folder|folder of|folder to make",  # of a run, a search, an experiment
    # A file, a servable, or the results of a benchmark.
    "output": r"\.png file|The page to write|version folders|saved_models/NAME|folder of the results",
    "data-dir": "Where TensorFlow Datasets keeps its data|Folder of TensorFlow Datasets",
    "seed": "Random seed of",  # a training, the trials, the first run
    "quiet": "No progress|Only warnings",
    "json": "One JSON object on standard output",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_flag_has_one_meaning(name: str, capsys: Capture) -> None:
    words = {"train": ["digits"], "experiment": ["gradients"], "benchmark": ["input"]}.get(name, [])
    assert main([name, *words, "--help"]) == 0
    found: dict[str, str] = {}
    for line in capsys.readouterr().out.splitlines():
        line = line.strip("│| ")
        if option := re.match(r"(?:-\w, )?--([a-z-]+)", line):
            found[option[1]] = ""
        if found and not line.startswith(("╭", "╰", "+")):
            found[list(found)[-1]] += f"{line} "
    assert set(found) & set(MEANINGS) == COMMON_FLAGS[name]
    for flag in COMMON_FLAGS[name]:
        assert re.search(MEANINGS[flag], found[flag]), found[flag]


def test_models(capsys: Capture) -> None:
    assert main(["models", "*resnet50*"]) == 0
    out = capsys.readouterr().out
    assert "25,557,032" in out
    assert "4.089" in out
    assert main(["models", "cifar_resnet20", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["models"]
    assert row["macs"] == 40_551_040


def test_train_evaluate_predict_export(
    quick: TrainConfig, trained: Printed, exported: Printed, digit_png: Path, capsys: Capture
) -> None:
    run, output = str(trained.folder), str(exported.folder)
    result = json.loads(trained.out)
    assert result["run_dir"] == run
    assert "epoch 2/2" in trained.err
    assert "images/s" in trained.err
    assert main(["evaluate", run, "--data-dir", str(quick.data_dir), "--json"]) == 0
    out, err = capsys.readouterr()
    measured = json.loads(out)
    assert err == ""
    assert {"loss", "accuracy", "top5_accuracy", "examples", "ece", "per_class", "confusion"} == set(measured)
    assert measured["accuracy"] == result["accuracy"]
    assert main(["evaluate", run, "--data-dir", str(quick.data_dir)]) == 0
    assert "on 360 images" in capsys.readouterr().out
    assert json.loads(exported.out) == {"path": f"{output}/1", "version": 1}
    answers = []
    for source in (run, output):
        assert main(["predict", source, str(digit_png), "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out)["predictions"][0]["labels"])
        assert main(["predict", source, str(digit_png), "--top-k", "1"]) == 0
        assert capsys.readouterr().out.startswith(f"{digit_png}: {answers[0][0]} ")
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_a_packaged_name_in_place_of_a_run(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "cifar10-jpeg", str(image_folder / "red" / "0.jpg"), "--json"]) == 0
    [prediction] = json.loads(capsys.readouterr().out)["predictions"]
    assert set(prediction["labels"]) < set(rk.model_card(rk.load_model("cifar10-jpeg")).labels)
    assert main(["export", "cifar10-jpeg", "--json"]) == 0
    exported = Path("saved_models", "cifar10-jpeg", "1")
    assert json.loads(capsys.readouterr().out)["path"] == str(exported)
    assert rk.predict(exported, [image_folder / "red" / "0.jpg"])[0].labels == tuple(prediction["labels"])
    assert "has 10 classes" in refused(capsys, "evaluate", "cifar10-jpeg", "--data", str(image_folder))
    words = ["--model", "cifar_resnet20", "--weights", "cifar10-jpeg", "--image-size", "32", "--freeze", "stage3"]
    words += ["--data", str(image_folder), "--batch-size", "4", "--epochs", "1", "--run-dir", "run", "--quiet"]
    assert main(["train", "finetune", *words]) == 0
    ours, theirs = (rk.load_model(source) for source in ("run", "cifar10-jpeg"))
    assert ours.output_shape == (None, 2)
    for name in ("stem", "stage3_block3"):
        for one, other in zip(ours.get_layer(name).get_weights(), theirs.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    assert rk.model_card(ours).mean == rk.model_card(theirs).mean


@pytest.mark.parametrize("words", [["--optimizer", "adamw"], ["--optimizer=adamw"], ["--algorithm", "adamw"]])
def test_the_optimizer_is_a_word(words: list[str]) -> None:
    command: Any = _parse(["train", "digits", *words, "--weight-decay", "0.05"])
    assert (command.config.optimizer.algorithm, command.config.optimizer.weight_decay) == ("adamw", 0.05)


@pytest.mark.usefixtures("only_models")
def test_train_from_the_config_of_a_run(trained: Printed, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "again"
    words = ["train", str(trained.folder / "config.json"), "--run-dir", str(run), "--epochs", "1", "--quiet"]
    assert main(words) == 0
    assert capsys.readouterr().err == ""
    then, now = (json.loads((folder / "config.json").read_text()) for folder in (trained.folder, run))
    assert now == {**then, "epochs": 1, "run_dir": str(run)}


@pytest.mark.usefixtures("only_models")
def test_nested_flags_reach_the_config(quick: TrainConfig, tmp_path: Path) -> None:
    words = ["--learning-rate", "0.03", "--milestones", "0.2", "0.4", "--decay", "step", "--flip", "--no-nesterov"]
    words = [*flags(dataclasses.replace(quick, epochs=1)), "shortcut", "B", "se_ratio", "0.25", *words]
    assert main(["train", "digits", *words, "--quiet", "--run-dir", str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["optimizer"]["learning_rate"] == 0.03
    assert config["optimizer"]["nesterov"] is False
    assert config["schedule"]["milestones"] == [0.2, 0.4]
    assert config["augmentation"]["flip"] is True
    small = {"blocks": "1,1,1", "widths": "8,8,8", "stem_width": 8}
    assert config["model_options"] == {**small, "shortcut": "B", "se_ratio": 0.25}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("tran digits", "unknown command 'tran'; did you mean train, tune"),
        ("train digit", "unknown recipe 'digit'; did you mean digits"),
        ("train --epochs 3 digits", "the recipe comes first"),
        ("train digits --epoch 3", "unknown flag --epoch; did you mean --epochs (see resnet-keras train"),
        ("train digits --epochs three", "--epochs must be a whole number, not 'three'"),
        ("train digits --epochs -1", "epochs must be at least 1, or 0 for as many as the images call for, not -1"),
        ("train digits --learning-rate -1", "learning_rate must be above 0, not -1.0"),
        ("train digits --precision float8", "unknown precision 'float8'; choose from float32, mixed_bfloat16"),
        ("train digits --model resnet51", "unknown model 'resnet51'; did you mean resnet50"),
        ("train digits --model-options shortcut", "--model-options"),
        ("train digits --data cifar01", "no TensorFlow data set of that name; did you mean cifar10"),
        ("train digits --data /nowhere", "there is no such folder"),
        ("train none.json", "cannot read the config file none.json: No such file"),
        ("evaluate", "missing: MODEL"),
        ("evaluate /nowhere", "there is no run folder or model at /nowhere"),
        ("evaluate / --batch-size 0", "batch_size must be at least 1"),
        ("evaluate /", "/ is not a run folder: it has no model.keras"),
        ("predict /nowhere a.png", "there is no run folder or model at /nowhere"),
        ("predict cifar10 a.png", "no run folder or model at cifar10; packaged ones are cifar10-jpeg"),
        ("predict /", "give at least one image"),
        ("export /nowhere", "there is no run folder or model at /nowhere"),
        ("models zzz*", "unknown model pattern 'zzz*'"),
    ],
)
def test_wrong_words(words: str, message: str, capsys: Capture) -> None:
    assert message in refused(capsys, *words.split())


def test_wrong_files(quick: TrainConfig, trained: Printed, exported: Printed, tmp_path: Path, capsys: Capture) -> None:
    run = str(trained.folder)
    (tmp_path / "a.keras").write_text("no model")
    assert "a.keras is damaged" in refused(capsys, "evaluate", str(tmp_path / "a.keras"))
    assert "a.keras is not an image" in refused(capsys, "predict", run, str(tmp_path / "a.keras"))
    assert "cannot read" in refused(capsys, "predict", run, str(tmp_path / "none.png"))
    assert "version 1 exists" in refused(capsys, "export", run, "--output", str(exported.folder), "--version", "1")
    data = ["--data-dir", str(quick.data_dir)]
    assert "is a run of another config: epochs was 2, now 12" in refused(
        capsys, "train", "digits", *data, *SMALL, "--run-dir", run
    )
    assert "larger than" in refused(capsys, "train", "digits", *data, "--batch-size", "2000")
    file = str(tmp_path / "a.keras")
    assert "cannot write to" in refused(capsys, "train", "digits", *data, "--run-dir", f"{file}/run")
    assert "cannot write to" in refused(capsys, "export", run, "--output", f"{file}/net")
    for content, message in (
        (b'{"epoch": 3}', "unknown field in"),
        (b"\xff\xfe{}", "cannot read the config file"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"name": "../../elsewhere"}', "name must be letters, digits, dots and dashes"),
        (b'{"optimizer": {"learning_rate": 1e999}}', "learning_rate must be of type float"),
    ):
        (tmp_path / "bad.json").write_bytes(content)
        assert message in refused(capsys, "train", str(tmp_path / "bad.json"))
    long = "x" * 300
    for words in (
        ["evaluate", long],
        ["predict", long, "a.png"],
        ["export", long],
        ["train", "digits", "--data", long],
    ):
        assert "File name too long" in refused(capsys, *words)
    assert "File name too long" in refused(capsys, "train", "digits", *data, "--run-dir", str(tmp_path / long))


@pytest.fixture
def ordinary_images(tmp_path: Path) -> Path:
    """A `class/file` folder of 320 images of 32x32."""
    folder, rng = tmp_path / "data", np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for i in range(160):
            image = tf.io.encode_png(rng.integers(0, 256, (32, 32, 3), "uint8")).numpy()
            (folder / label / f"{i}.png").write_bytes(image)
    return folder


def untimed(run: Path) -> list[str]:
    """The lines of `metrics.csv` without the seconds."""
    return [line.rsplit(",", 1)[0] for line in (run / "metrics.csv").read_text().splitlines()]


@pytest.mark.slow  # 15 s: test_training has one seed in one process; below, a command has one op at a time
def test_one_seed_gives_one_result(commands: Server, ordinary_images: Path, tmp_path: Path) -> None:
    """A small net, whose two runs can be alike by chance with two ops at a time: see `test_the_program_knows...`."""
    words = ["train", "cifar10-resnet20", "--data", str(ordinary_images), "--image-size", "32", "--epochs", "3"]
    words += ["--model-options", "blocks", "1,1,1"]
    for run in ("first", "second"):
        code, said = commands.start([*words, "--quiet", "--run-dir", str(tmp_path / run)]).finish()
        assert code == 0, said
    first, second = untimed(tmp_path / "first"), untimed(tmp_path / "second")
    assert len(first) == 4
    assert first == second


@pytest.mark.slow  # 48 s: the whole net in processes that start as a user's; the sibling above has a smaller one
def test_one_seed_gives_one_result_on_images_of_ordinary_size(ordinary_images: Path, tmp_path: Path) -> None:
    """At 32x32 the convolutions are shared among threads, and two ops at a time made no two runs alike."""
    words = ["train", "cifar10-resnet20", "--data", str(ordinary_images), "--image-size", "32", "--epochs", "3"]
    tables = []
    for run in ("first", "second"):
        program = [sys.executable, "-m", "resnet_keras", *words, "--quiet", "--run-dir", str(tmp_path / run)]
        subprocess.run(program, check=True, capture_output=True)
        tables.append(untimed(tmp_path / run))
    assert len(tables[0]) == 4
    assert tables[0] == tables[1]


EACH_IN_A_FORK = """
import json, os, sys
import keras, tensorflow  # but not this package, which each command imports afresh

sys.argv[0] = "resnet-keras"
for words in json.loads(sys.argv[1]):
    if not os.fork():
        from resnet_keras.cli.main import main
        code = main(words)
        assert tensorflow.config.threading.get_inter_op_parallelism_threads() == 1
        sys.stdout.flush()
        os._exit(code)
    if os.waitstatus_to_exitcode(os.wait()[1]):
        sys.exit(1)
"""


@pytest.mark.slow
def test_the_program_knows_every_family(digit_png: Path, tmp_path: Path) -> None:
    """In a process of its own for each, where importing the package has registered nothing.

    Each has one op at a time on a CPU besides, for one seed to give one result.
    """
    shape = {"input_shape": (32, 32, 3), "classes": 3}
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax")]
    small = keras.Sequential([keras.Input((32, 32, 3)), *head])
    models = {
        "vgg": rk.build_vgg(11, widths=(4, 4, 8, 8, 8), hidden=16, **shape),
        "densenet": rk.build_densenet(22, stem="cifar", **shape),
        "given": classifier_around(small, rk.ModelCard()).network,
    }
    words = []
    for family, model in models.items():
        model.save(tmp_path / f"{family}.keras")
        words.append(["predict", str(tmp_path / f"{family}.keras"), str(digit_png), "--json"])
    program = [sys.executable, "-c", EACH_IN_A_FORK, json.dumps(words)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(models)
    assert all(len(json.loads(line)["predictions"][0]["labels"]) == 3 for line in lines)


def test_another_backend_is_refused() -> None:
    program = [
        sys.executable,
        "-c",
        "import sys; sys.argv = ['resnet-keras']; from resnet_keras.cli.main import main; sys.exit(",
    ]
    program[-1] += "main(['evaluate', 'cifar10-jpeg']))"
    done = subprocess.run(
        program, env={**os.environ, "KERAS_BACKEND": "jax"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "resnet-keras: resnet_keras runs on Keras's tensorflow backend; unset KERAS_BACKEND\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder of 128 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(quick: TrainConfig, trained: Printed, small_disk: Path, capsys: Capture) -> None:
    run, net = small_disk / "run", small_disk / "net"
    words = ["train", "digits", *flags(quick), "--quiet", "--run-dir", str(run)]
    assert "cannot write to" in refused(capsys, *words)
    assert not (run / "model.keras").exists()
    assert "cannot write to" in refused(capsys, "export", str(trained.folder), "--output", str(net))
    assert not net.exists()


def test_a_read_only_disk(quick: TrainConfig, trained: Printed, small_disk: Path, capsys: Capture) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    words = ["train", "digits", *flags(quick), "--quiet", "--run-dir", str(small_disk / "run")]
    assert "Read-only file system" in refused(capsys, *words)
    assert "Read-only file system" in refused(
        capsys, "export", str(trained.folder), "--output", str(small_disk / "net")
    )


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A background job ignores the interrupt, as this test may be one: listen to it again."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# Python drops what a signal raises inside a garbage collection; the run keeps the request, and ends.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_leaves_a_usable_run(quick: TrainConfig, tmp_path: Path, capsys: Capture, interruptible: None) -> None:
    run, over = tmp_path / "run", threading.Event()
    words = ["train", "digits", *flags(dataclasses.replace(quick, epochs=1000)), "--run-dir", str(run)]

    def interrupt() -> None:
        deadline = time.monotonic() + 120
        while not (run / "model.keras").exists():
            if over.wait(0.05) or time.monotonic() > deadline:
                return
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        code = main(words)
    finally:
        over.set()
        thread.join()
    assert code == 130
    assert "Traceback" not in capsys.readouterr().err
    assert json.loads((run / "metrics.json").read_text())["interrupted"]
    assert main(["evaluate", str(run), "--data-dir", str(quick.data_dir), "--json"]) == 0


def demo_result(config: TrainConfig, folder: Path, capsys: Capture) -> dict[str, Any]:
    """What the demo prints, once it is checked."""
    words = ["--run-dir", str(folder / "run"), "--output", str(folder / "net"), "--data-dir", str(config.data_dir)]
    assert main(["demo", *words, "--quiet", "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["model_says"].split()[0] == result["servable_says"].split()[0]
    assert result["server_says"].startswith(f"{result['servable_says'].split()[0]} (")
    assert result["server_says"].endswith("version 1")
    assert result["saved_model"] == str(folder / "net" / "1")
    for name in ("run_folder", "report", "image", "saved_model"):
        assert Path(result[name]).exists()
    assert err == ""
    return result


@pytest.mark.guides  # 15 s; CI runs `make demo` too
def test_demo_in_short(quick: TrainConfig, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(quick, model_options={"blocks": "1,1,1", "widths": "8,8,8", "stem_width": 8})
    monkeypatch.setattr("resnet_keras.cli.demo.recipe", lambda name: small)
    assert demo_result(quick, tmp_path, capsys)["test_images"] == 360


@pytest.mark.slow  # 76 s, all but the training also in test_demo_in_short
def test_demo(quick: TrainConfig, tmp_path: Path, capsys: Capture) -> None:
    """The whole way, as `make demo` goes it: at least 97 % in the end."""
    assert demo_result(quick, tmp_path, capsys)["test_accuracy"] >= 0.97


def test_demo_without_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from resnet_keras.cli.demo import predict_by_server

    for name in ("starlette", *(name for name in sys.modules if name.startswith("starlette."))):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("server", "rest", "page"):
        monkeypatch.delitem(sys.modules, f"resnet_keras.serving.{name}", raising=False)
    line = predict_by_server(tmp_path, tmp_path / "a.png")
    expected = "not tried: serve needs starlette, which is not installed: pip install 'resnet-keras[serve]'"
    assert line == expected
