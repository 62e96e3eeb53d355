"""The experiments: their instruments against independent sums, the direction of each effect on small nets, the program.

The effects are large where they are there at all, and the bounds stand far inside what was measured: no test rests on
the last digit of a training.
"""

import dataclasses
import json
import signal
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
from resnet_keras.cli.main import main
from resnet_keras.errors import UsageError
from resnet_keras.experiments import grid, lesions
from resnet_keras.experiments import responses as responses_module
from resnet_keras.experiments.anatomy import (
    blocks_of,
    branch_sizes,
    chain,
    error_of,
    gradient_norms,
    identity_errors,
    lesionable,
    responses,
    swapped,
    without,
)
from resnet_keras.experiments.experiment_config import DIGITS, ExperimentConfig, Net, plain, residual
from resnet_keras.experiments.gradients import KINDS, at_start, ratio
from resnet_keras.experiments.grid import Trained, train_all
from resnet_keras.experiments.lesions import REMOVED, SWAPPED, operate
from resnet_keras.experiments.table import EXPERIMENTS, run_experiment
from resnet_keras.models.layers import run
from resnet_keras.training.reporters import ModelFiles
from resnet_keras.training.setup import source_of

Capture = pytest.CaptureFixture[str]
RANDOM = np.random.default_rng(0)
IMAGES = tf.constant(RANDOM.integers(0, 256, (16, 8, 8, 1)), tf.float32)
LABELS = tf.one_hot(RANDOM.integers(0, 10, 16), 10)


def small_net(depth: int = 14, variant: str = "v1", **spec: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    card = rk.ModelCard(mean=(0.5,), std=(0.3,))
    narrow: dict[str, Any] = {"widths": (4, 8, 16), "stem_width": 4, "input_shape": (8, 8, 1), **spec}
    return rk.build_cifar_resnet(depth, variant, include_preprocessing=card, **narrow)


@pytest.fixture(scope="module", autouse=True)
def only_models_of_each_run() -> Iterator[None]:
    """No TensorBoard and no report of each run, which take half the time of so short a training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "all_reporters", lambda quiet: [ModelFiles])
        yield


@pytest.fixture(scope="module")
def settings(data_dir: str) -> ExperimentConfig:
    return ExperimentConfig(depths=(20,), seeds=1, epochs=6, data_dir=data_dir, quiet=True)


@pytest.fixture(scope="module")
def trained(settings: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """A plain and a residual net of 14 layers, trained on digits for six epochs."""
    folder, source = tmp_path_factory.mktemp("experiments"), source_of(settings.protocol())
    return {one.kind: one for one in train_all([plain(14), residual(14)], settings, source, folder)}


def test_the_chain_is_the_network() -> None:
    network = small_net()
    logits = keras.Model(network.input, network.get_layer("logits").output)
    np.testing.assert_array_equal(run(chain(network), IMAGES, False), logits(IMAGES, training=False))
    assert [block.name for block in blocks_of(network)] == [f"stage{s}_block{b}" for s in (1, 2, 3) for b in (1, 2)]


@pytest.mark.parametrize("shortcut", ["A", "none"])
def test_gradient_norms_against_finite_differences(shortcut: str) -> None:
    """The loss rises along the gradient by its norm: a central difference, whose error float32 bounds to percents."""
    network = small_net(8, shortcut=shortcut)
    norms = gradient_norms(network, IMAGES, LABELS)
    layers = chain(network)
    place = [layer.name for layer in layers].index("stage1_block1") + 1
    signal_there = run(layers[:place], IMAGES, True)

    def loss(x: Any) -> Any:
        answers = run(layers[place:], x, True)
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(LABELS, answers))

    with tf.GradientTape() as tape:
        tape.watch(signal_there)
        value = loss(signal_there)
    along: Any = tape.gradient(value, signal_there)
    along = along / tf.norm(along)
    step = 3e-2
    slope = (loss(signal_there + step * along) - loss(signal_there - step * along)) / (2 * step)
    assert norms[1] == pytest.approx(float(slope), rel=0.05)
    assert len(norms) == 1 + len(blocks_of(network))


def test_measuring_gradients_leaves_the_network_as_it_was() -> None:
    network = small_net(8)
    before = [weight.copy() for weight in network.get_weights()]
    gradient_norms(network, IMAGES, LABELS)
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize("se_ratio", [0.0, 0.25])
def test_with_the_last_gamma_at_zero_a_block_is_the_identity(preactivation: bool, se_ratio: float) -> None:
    shortcut = "B" if preactivation else "A"
    network = small_net(zero_init_gamma=True, preactivation=preactivation, shortcut=shortcut, se_ratio=se_ratio)
    errors = identity_errors(network, IMAGES)
    assert list(errors) == lesionable(network)
    assert set(errors.values()) == {0.0}  # to the bit: a sum with zero, and a ReLU of what is not negative
    assert branch_sizes(network, IMAGES) == [0.0] * len(blocks_of(network))
    assert max(identity_errors(small_net(shortcut="A"), IMAGES).values()) > 0.1


def test_the_gradient_goes_through_an_identity_to_the_bit() -> None:
    """dL/dx = dL/dy (dF/dx + 1) with dF/dx = 0; before activation, where no ReLU is on the shortcut's way."""
    norms = gradient_norms(small_net(zero_init_gamma=True, preactivation=True, shortcut="B"), IMAGES, LABELS)
    stem, (one, two), (three, four), (five, six) = norms[0], norms[1:3], norms[3:5], norms[5:7]
    assert stem == one == two
    assert three == four
    assert five == six
    assert two != three  # a projection stands between


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])  # 4 s each
def test_at_initialisation_the_plain_gradient_changes_far_more(seed: int, settings: ExperimentConfig) -> None:
    """At 44 layers by 500 to 950 and 15 to 20 when it was measured; asserted: 20 times apart, for each seed."""
    source = source_of(settings.protocol())
    one, other, still = (ratio(at_start(make(44), settings, source, seed)) for make in KINDS)
    assert one > 20 * other > 20  # both grow towards the stem
    assert 0.1 < still < 10  # the +1 alone


def test_responses_are_of_each_convolution() -> None:
    model = small_net()
    found = responses(model, IMAGES)
    assert len(found) == 2 * len(blocks_of(model))
    # The last response of a block is its branch, which the sizes compare with the shortcut.
    x = run(chain(model)[:2], IMAGES, False)
    shortcut, branch = blocks_of(model)[0].terms(x, False)
    assert found[1] == pytest.approx(float(np.std(branch)), rel=1e-5)
    assert branch_sizes(model, IMAGES)[0] == pytest.approx(float(np.std(branch) / np.std(shortcut)), rel=1e-5)


def test_a_chain_without_blocks() -> None:
    network = small_net(zero_init_gamma=True)
    layers, names = chain(network), lesionable(network)
    assert names == ["stage1_block1", "stage1_block2", "stage2_block2", "stage3_block2"]
    whole = run(layers, IMAGES, False)
    np.testing.assert_array_equal(run(without(layers, names), IMAGES, False), whole)  # identities are not missed
    assert len(without(layers, names)) == len(layers) - 4
    order = [layer.name for layer in swapped(layers, "stage1_block1", "stage1_block2")]
    assert order.index("stage1_block2") + 1 == order.index("stage1_block1")
    right = np.argmax(whole, -1)
    assert error_of(layers, [(IMAGES, tf.one_hot(right, 10))]) == 0.0
    assert error_of(layers, [(IMAGES, tf.one_hot((right + 1) % 10, 10))]) == 1.0


@pytest.mark.slow  # 14 s with its nets, as the next: chains and conclusions are tested without
def test_a_residual_net_lives_without_a_block_and_a_plain_one_does_not(
    trained: dict[str, Trained], settings: ExperimentConfig
) -> None:
    """Test errors when it was measured: whole 3 % and 3 %, a block less 84 % and 15 % in the median."""
    test = source_of(settings.protocol()).test
    batches = [(tf.constant(test.images), tf.one_hot(test.targets, 10))]  # pyright: ignore[reportAttributeAccessIssue]
    median = {}
    for kind, one in trained.items():
        cases = operate(one.model(), batches, one)
        errors = {lesion: [c["test_error"] for c in cases if c["lesion"] == lesion] for lesion in ("none", REMOVED)}
        assert errors["none"][0] == pytest.approx(1 - one.test_accuracy, abs=1e-6)
        assert errors["none"][0] < 0.2
        assert len(errors[REMOVED]) == 4
        assert sum(case["lesion"] == SWAPPED for case in cases) == 1
        median[kind] = float(np.median(errors[REMOVED]))
    assert median["plain"] > 0.6
    assert median["residual"] < 0.4


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), [(lesions, "lesions"), (responses_module, "responses")])
def test_what_an_experiment_makes_of_nets_that_are_trained(
    module: Any,
    name: str,
    trained: dict[str, Trained],
    settings: ExperimentConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its page, plots and sentences; the slow tests train for each besides."""
    monkeypatch.setattr(module, "train_all", lambda *_: list(trained.values()))
    own = dataclasses.replace(settings, depths=(14,), run_dir=str(tmp_path / name))
    finding, folder = run_experiment(name, own)
    assert finding.sentences
    assert all("nan" not in sentence for sentence in finding.sentences)
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64") == len(finding.plots) == len(list(folder.glob("*.png")))
    assert "plain" in page
    assert "residual" in page


def test_every_net_has_one_protocol_and_its_own_shape() -> None:
    settings = ExperimentConfig(depths=(26,), batch_size=32, learning_rate=0.03)
    one, twin = (make(26).config(settings, 3, "folder") for make in (plain, residual))
    same = dataclasses.replace(one, name=twin.name, model=twin.model, model_options=twin.model_options)
    assert same == twin
    assert (one.batch_size, one.optimizer.learning_rate, one.epochs, one.seed) == (32, 0.03, DIGITS.epochs, 3)
    assert one.model == "cifar_plain20"
    assert one.model_options["blocks"] == "4,4,4"
    assert Net("x", 44).config(ExperimentConfig(data="cifar10"), 0, "folder").model == "cifar_resnet44"
    for experiment in EXPERIMENTS.values():
        assert experiment.defaults.data == "digits"
        assert experiment.defaults.network in experiment.networks


def words_of(settings: ExperimentConfig) -> list[str]:
    return ["--data-dir", str(settings.data_dir), "--seeds", "1", "--epochs", "1", "--quiet", "--json"]


@pytest.mark.slow  # 13 s: test_cli has Ctrl-C, test_resume goes on
def test_degradation_is_interrupted_resumed_and_reported(
    settings: ExperimentConfig, tmp_path: Path, commands: Server, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "new"
    words = ["degradation", "--depths", "8", "14", *words_of(settings), "--run-dir", str(folder)]
    command = commands.start([word for word in words if word != "--quiet"], reports=True)
    while not list(folder.glob("residual-8-seed0/*")):
        assert command.running, command.finish()
        time.sleep(0.02)
    command.send(signal.SIGINT)
    code, said = command.finish()
    assert code == 130, said
    assert "{" not in said  # of --json
    assert "1 of 4: plain, 8 layers, seed 0: training loss " in said
    assert f"with --run-dir {folder} resumes it" in said.splitlines()[-1]
    first = folder / "plain-8-seed0"
    trained_once = (first / "model.keras").stat().st_mtime_ns
    assert (first / "report.html").is_file()  # each run has all that `train` writes
    assert list(first.rglob("events.out.tfevents.*"))

    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert (first / "model.keras").stat().st_mtime_ns == trained_once
    answer = json.loads(out)
    assert [(r["kind"], r["depth"], r["seed"]) for r in answer["runs"]] == [
        ("plain", 8, 0),
        ("plain", 14, 0),
        ("residual", 8, 0),
        ("residual", 14, 0),
    ]
    assert all(0 <= r["train_accuracy"] <= 1 and 0 <= r["test_accuracy"] <= 1 for r in answer["runs"])
    assert all(r["train_loss"] > 0 for r in answer["runs"])
    assert answer["protocol"]["epochs"] == 1
    assert answer["protocol"]["tensorflow"] == tf.__version__
    assert json.loads((folder / "summary.json").read_text()) == {k: v for k, v in answer.items() if k != "folder"}
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64") == 2
    assert 'src="http' not in page  # it stands on its own
    assert "<link" not in page
    assert (folder / "degradation.png").read_bytes().startswith(b"\x89PNG")
    header, *rows = (folder / "degradation.csv").read_text().splitlines()
    assert header == "kind,depth,seed,step,train_error,test_error"
    assert len(rows) == 4

    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/model.keras")}
    assert main(words) == 0  # nothing is trained again
    assert json.loads(capsys.readouterr().out) == answer
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/model.keras")} == before

    assert main(["experiment", "lesions", *words_of(settings), "--run-dir", str(folder)]) == 2
    assert "holds an experiment with experiment 'degradation', now 'lesions'" in capsys.readouterr().err
    assert main([*words, "--epochs", "2", "--depths", "20"]) == 2  # a summary of two protocols would be of none
    assert "epochs 1, now 2; give another --run-dir" in capsys.readouterr().err
    assert json.loads((folder / "summary.json").read_text())["runs"] == answer["runs"]


LONG = ("shortcuts", "responses", "preactivation", "gradients", "lesions", "norm-placement")
"""Four nets each, or what is measured above, which take 7 to 20 seconds."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LONG else [])
        for name in EXPERIMENTS
        if name != "degradation"
    ],
)
def test_each_experiment_on_the_command_line(
    name: str, settings: ExperimentConfig, tmp_path: Path, capsys: Capture
) -> None:
    words = ["experiment", name, "--depths", "8", *words_of(settings), "--run-dir", str(tmp_path / name)]
    assert main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["found"]
    assert answer["runs"]
    assert list((tmp_path / name).glob("*.png"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["experiment"], "the experiment comes first"),
        (["experiment", "lesion"], "unknown experiment 'lesion'"),
        (["degradation", "--depths", "21"], "6n+2"),
        (["degradation", "--seed", "-1"], "seed must be at least 0"),
        (["degradation", "--depths", "20", "20"], "depths must be different"),
        (["degradation", "--seeds", "0"], "seeds must be at least 1"),
        (["degradation", "--data", "no_such_data"], "no_such_data"),
        (["degradation", "--epochs", "0"], "epochs must be at least 1"),
    ],
)
def test_wrong_words(words: list[str], said: str, tmp_path: Path, capsys: Capture, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("resnet-keras: ")
    assert said in line
    assert not list(tmp_path.glob("runs/*"))


def test_a_folder_of_something_else_is_refused(tmp_path: Path, settings: ExperimentConfig) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="is not empty; give another --run-dir"):
        run_experiment("degradation", dataclasses.replace(settings, run_dir=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_the_default_shows_degradation_for_each_seed(data_dir: str, tmp_path: Path, capsys: Capture) -> None:
    """The default command, at its own size. The deepest plain nets were hundreds of times worse when measured."""
    assert main(["degradation", "--data-dir", data_dir, "--json", "--quiet", "--run-dir", str(tmp_path / "new")]) == 0
    loss = {(r["kind"], r["depth"], r["seed"]): r["train_loss"] for r in json.loads(capsys.readouterr().out)["runs"]}
    for seed in range(3):
        assert loss["plain", 44, seed] > 10 * loss["residual", 44, seed]
        assert loss["plain", 44, seed] > loss["plain", 20, seed]
