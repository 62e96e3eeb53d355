"""The PyTorch program whose accuracy stands beside ours: what it trains, and how, is what we do."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from small import randomise

import resnet_keras as rk
from resnet_keras.config.recipes import recipe
from resnet_keras.config.stored import config_from_json
from resnet_keras.config.train import Augmentation, Schedule, TrainConfig
from resnet_keras.data.augmentation import pad_crop_flip
from resnet_keras.data.sources import open_source
from resnet_keras.training.phases import phases_of
from resnet_keras.training.record import COLUMNS
from resnet_keras.training.schedule import rate_at
from resnet_keras.training.setup import make_setup

pytestmark = pytest.mark.interop
program: Any = pytest.importorskip("benchmarks.cifar_torch", reason="torch is not installed; see test_interop.py")
torch: Any = program.torch


def carried(model: Any) -> dict[str, Any]:
    return {key: torch.from_numpy(value) for key, value in rk.torch_state_dict(model).items()}


@pytest.mark.parametrize(
    ("name", "parameters"), [("cifar_resnet20", 269_722), ("cifar_plain20", 269_722), ("cifar_resnet32", 464_154)]
)
def test_networks_are_ours(name: str, parameters: int) -> None:
    ours = rk.create_model(name, classifier_activation=None)
    randomise(ours)
    module = program.CifarNet(*program.kind_of(name)).eval()
    module.load_state_dict(carried(ours))  # strict: every name, no more
    assert sum(p.numel() for p in module.parameters()) == parameters
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    with torch.no_grad():
        logits = module(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(logits, ours(images), rtol=0, atol=1e-4 * np.abs(logits).max())
    assert np.ptp(logits) > 0.1


@pytest.mark.parametrize("zero_init_gamma", [False, True])
def test_networks_start_as_ours(zero_init_gamma: bool) -> None:
    torch.manual_seed(0)
    tf.keras.utils.set_random_seed(0)
    module = program.CifarNet(20, zero_init_gamma=zero_init_gamma)
    ours = carried(rk.build_cifar_resnet(20, zero_init_gamma=zero_init_gamma))
    for key, value in module.state_dict().items():
        if value.ndim > 1:
            assert float(value.std() / ours[key].std()) == pytest.approx(1, abs=0.12), key
        else:
            assert torch.equal(value, ours[key]), key
    for head in (module.state_dict()["linear.weight"], ours["linear.weight"]):
        assert 2 < float(head.abs().max()) / (2 / 64) ** 0.5 < 2.274  # cut at two deviations of what it is cut from


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        *((recipe(name).schedule, recipe(name).epochs * 390) for name in ("cifar10-resnet20", "cifar10-resnet110")),
        *((recipe(name).schedule, recipe(name).epochs * 390) for name in ("cifar10-resnet20-short", "cifar10-wrn")),
        (recipe("digits").schedule, 12 * 22),
        (Schedule("poly", power=3.0, warmup=0.07, warmup_from=0.3, floor=0.01), 1000),
        (Schedule("constant"), 10),
    ],
)
def test_rates_are_ours(schedule: Schedule, steps: int) -> None:
    peak = 0.2
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, program.partial(program.factor_at, schedule, steps))
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates, rate_at(tf.range(steps), peak, schedule, steps), rtol=0, atol=1e-6)


def test_windows_are_ours() -> None:
    images = np.random.default_rng(0).integers(0, 256, (500, 9, 8, 3), "uint8")
    colour, augmentation = np.array([125, 123, 114], "uint8"), Augmentation(crop="pad", pad=2, flip=True)
    draws = program.window_draws(500, augmentation, torch.Generator().manual_seed(0))
    assert [sorted(set(row)) for row in draws.tolist()] == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1]]
    got = program.windows(torch.from_numpy(images), draws, 2, torch.from_numpy(colour))
    wanted = pad_crop_flip(tf.constant(images), tf.constant(draws.T.numpy(), tf.int32), 2, tf.constant(colour))
    np.testing.assert_array_equal(got, wanted)
    as_it_is = program.window_draws(500, Augmentation(), torch.Generator())
    assert torch.equal(program.windows(torch.from_numpy(images), as_it_is, 0, torch.zeros(3)), torch.from_numpy(images))


def test_steps_are_ours(quick: TrainConfig) -> None:
    """From the same weights on the same pixels: normalisation, loss, momentum, rates and decay, here a strong one."""
    config = replace(quick, model_options={}, optimizer=replace(quick.optimizer, weight_decay=0.1))
    ours = make_setup(config, tf.distribute.get_strategy())
    theirs = program.Training(config, open_source(config.data, config.data_dir))
    theirs.net.load_state_dict(carried(ours.network))
    run = ours.step.runner(ours.trained)
    for images, one_hot in ours.batches(phases_of(config)[0], 0, 6):
        ours.state.write_totals(np.zeros(3))
        run(iter(tf.data.Dataset.from_tensors((images, one_hot))), tf.constant(1))
        loss, right, count = ours.state.read_totals()
        targets = torch.from_numpy(one_hot.numpy().argmax(1))
        got = [float(value) for value in theirs.step(torch.from_numpy(images.numpy()), targets)]
        assert got == pytest.approx([loss / count, right], rel=1e-4)
    for key, value in carried(ours.network).items():
        if value.ndim:
            np.testing.assert_allclose(theirs.net.state_dict()[key], value, rtol=0, atol=1e-2 * value.abs().max())


def test_a_run_learns_and_leaves_a_folder(
    quick: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "digits",
        "--data-dir",
        str(quick.data_dir),
        "--epochs",
        "2",
        "--seed",
        "1",
        "--run-dir",
        str(tmp_path / "a"),
    ]
    assert program.main(words) == 0
    first, last = csv.DictReader((tmp_path / "a" / "metrics.csv").read_text().splitlines())
    assert tuple(first) == COLUMNS
    for name in ("loss", "val_loss"):
        assert float(last[name]) < float(first[name])
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert metrics["accuracy"] == float(last["val_accuracy"])
    assert (metrics["examples"], metrics["epochs"], metrics["seed"]) == (360, 2, 1)
    assert metrics["environment"]["torch"] == torch.__version__
    config = config_from_json((tmp_path / "a" / "config.json").read_text())
    assert (config.name, config.epochs, config.seed) == ("digits", 2, 1)
    said = capsys.readouterr().err
    assert "epoch 2/2" in said
    assert program.main(words) == 2
    assert "has a run already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cifar10-resnet20", "--model", "cifar_resnet8_4"], "model cifar_resnet8_4 is not in this program"),
        (
            ["cifar10-fast", "--model", "cifar_resnet20"],
            "has no train_sizes, test_flip, label_smoothing, ema, precision",
        ),
        (["finetune", "--model", "cifar_resnet20"], "crop resized"),
        (["cifar10-resnet20", "--epochs", "none"], "--epochs"),
    ],
)
def test_what_is_not_the_same_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_interrupted(
    quick: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(program.Training, "epoch", interrupted)
    assert program.main(["digits", "--data-dir", str(quick.data_dir), "--run-dir", str(tmp_path / "a")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "cifar_torch: interrupted"
    assert not (tmp_path / "a" / "metrics.json").exists()
