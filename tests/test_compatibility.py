"""Files that version 0.1 wrote are read, and its runs go on. `tests/v0_1/` was written by its last commit, 58ab6f5."""

import json
import os
import platform
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import resnet_keras as rk

FILES = Path(__file__).parent / "v0_1"
ANSWERS = np.load(FILES / "models" / "answers.npz")


def copy_of(name: str, to: Path, data_dir: str) -> Path:
    """A writable copy of a folder, with the paths of this machine in it."""
    folder = shutil.copytree(FILES / name, to / name)
    for path in folder.rglob("*.json"):
        path.write_text(path.read_text().replace("@DATA@", data_dir).replace("@SEARCH@", str(folder)))
    return folder


@pytest.mark.parametrize("path", sorted((FILES / "models").glob("*.keras")), ids=lambda path: path.stem)
def test_a_model_gives_the_same_answers(path: Path) -> None:
    model = rk.load_model(path)
    outputs = model(ANSWERS[f"{path.stem}_images"].astype("float32"), training=False)
    np.testing.assert_allclose(outputs, ANSWERS[f"{path.stem}_outputs"], rtol=1e-5, atol=1e-6)
    assert [v.path for v in model.trainable_variables] == ANSWERS[f"{path.stem}_trainable"].tolist()
    card = rk.model_card(model)
    assert (card.labels, card.label_ids, card.mean, card.crop) == (
        ("a", "b", "c"),
        ("1", "2", "3"),
        (0.5, 0.4, 0.3),
        0.9,
    )
    assert card.metrics == {"accuracy": 0.5}


def same_machine(made: dict[str, object]) -> bool:
    """Whether sums come out here to the last bit as they did where a run was begun."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    cpu = [line.split(":")[1].strip() for line in lines if line.startswith(("cpu family", "model\t"))][:2]
    versions = (tf.__version__, platform.python_version())
    return (cpu, versions) == (made["cpu_family_model"], (made["tensorflow"], made["python"]))


@pytest.mark.slow  # 12 s: test_resume resumes runs of today
def test_a_run_that_was_killed_goes_on(tmp_path: Path, data_dir: str) -> None:
    """From step 15 of 33, within an epoch: the end is that of the run which was not killed, to the last bit."""
    run, made = copy_of("run", tmp_path, data_dir), json.loads((FILES / "run_end.json").read_text())
    code = "import sys; sys.argv[0] = 'resnet-keras'; from resnet_keras.cli.main import main\n"
    code += "from resnet_keras.training import reporters\n"
    code += "reporters.all_reporters = lambda quiet: [reporters.ModelFiles]; sys.exit(main())"
    words = ["train", str(run), "--quiet", "--json", "--data-dir", data_dir]
    env = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}  # as where it was begun
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    for name, value in made["metrics"].items():
        assert metrics[name] == pytest.approx(value, rel=1e-3), name
    expected = np.load(FILES / "run_end.npz")
    for variable in (v for v in rk.load_model(run).variables if "int" not in v.dtype):
        ours, theirs = variable.numpy(), expected[f"model:{variable.path}"]
        if same_machine(made):
            np.testing.assert_array_equal(ours, theirs, variable.path)
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4, err_msg=variable.path)
    rows = [line.rsplit(",", 2)[0] for line in (run / "metrics.csv").read_text().splitlines()]
    if same_machine(made):
        assert rows == [line.rsplit(",", 1)[0] for line in (FILES / "run_end.csv").read_text().splitlines()]


def test_a_servable_answers(digit_png: Path) -> None:
    (found,) = rk.predict(FILES / "servable", [digit_png])
    assert found.labels[0] in "0123456789"
    assert sum(rk.predict(FILES / "servable", [digit_png], top_k=5)[0].scores) <= 1


@pytest.mark.filterwarnings("ignore:(getName|currentThread)\\(\\) is deprecated:DeprecationWarning")  # KerasTuner's
def test_a_search_goes_on(
    tmp_path: Path, data_dir: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of its trials are there, so nothing is trained, and it finds what it found."""
    search = copy_of("search", tmp_path, data_dir)
    before = json.loads((search / "summary.json").read_text())
    words = ["digits", "--trials", "2", "--epochs", "1", "--output", str(search), "--data-dir", data_dir, "--json"]
    monkeypatch.setattr(sys, "argv", ["tuning", *words])
    monkeypatch.delitem(sys.modules, "tuning.__main__", raising=False)
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_module("tuning", run_name="__main__")  # as `python -m tuning`
    before["verdict"] = before["verdict"].replace("held-out pictures", "validation images")
    assert json.loads(capsys.readouterr().out) == before
    assert not list(search.rglob("model.keras"))
