"""What `--help` prints, with and without colours, and what a shell completes."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro

from resnet_keras.cli.flags import without_pairs
from resnet_keras.cli.help import shown
from resnet_keras.cli.main import COMMANDS, main
from resnet_keras.config.recipes import recipe
from resnet_keras.config.train import TrainConfig

Capture = pytest.CaptureFixture[str]
BEFORE = {"train": ["finetune"], "experiment": ["gradients"], "benchmark": ["serve"]}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Standard output is a terminal of 80 columns; pytest's captured one stays in its place."""
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda stream: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")


def help_of(capsys: Capture, *words: str) -> str:
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("terminal")
def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033[" in help_of(capsys, "predict")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in help_of(capsys, "predict")
    assert main(["predict", "--jsn"]) == 2
    assert "\033" not in capsys.readouterr().err


def test_no_colours_in_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033" not in help_of(capsys, "predict")


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("name", COMMANDS)
def test_it_is_short(name: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = help_of(capsys, name, *BEFORE.get(name, []))
    assert "{None}" not in text
    assert "(default: None)" not in text
    assert "(default: )" not in text
    assert not re.search(r"--no-(json|quiet|dry-run)", text)
    lines = [line for line in text.splitlines() if not line.startswith("usage: ")]
    assert max(map(len, lines)) <= 80
    assert not re.search(r"^│ (--\S+)( \S+)* +│\n(│ --|╰)", text, re.MULTILINE), "a flag without a word on it"


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("words", [[], ["train"], ["experiment"], ["benchmark"]])
def test_lists_fit(words: list[str], capsys: Capture) -> None:
    assert max(map(len, help_of(capsys, *words).splitlines())) <= 80


def test_defaults_are_the_recipe_s(capsys: Capture) -> None:
    text = help_of(capsys, "train", "cifar10-resnet110")
    assert "(default: cifar_resnet110)" in re.sub(r"[\s│|]+", " ", text)
    assert "[NAME VALUE ...]" in text


def test_what_is_shown_is_what_is_parsed() -> None:
    """The help's dataclass has the fields, defaults and nested dataclasses of the one that tyro fills."""

    def values(config: Any) -> dict[str, Any]:
        return {
            field.name: values(value) if dataclasses.is_dataclass(value) else value
            for field in dataclasses.fields(config)
            for value in [getattr(config, field.name)]
        }

    config = recipe("imagenet-resnet50")
    assert values(shown(TrainConfig, config)()) == values(without_pairs(config))


def test_both_spellings_of_a_switch_are_taken(capsys: Capture) -> None:
    assert main(["models", "resnet18", "--no-json"]) == 0
    assert capsys.readouterr().out.startswith("name")
    assert main(["models", "resnet18", "--no-json", "--json"]) == 0
    assert capsys.readouterr().out.startswith("{")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: Capture) -> None:
    assert main(["completion", shell]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for word in (*COMMANDS, "batch-size", "learning-rate"):
        assert word in out


def test_bash_completes(tmp_path: Path, capsys: Capture) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "resnet-keras"
    script.write_text(capsys.readouterr().out)
    subprocess.run(["bash", "-n", script], check=True)

    def completed(*words: str) -> list[str]:
        line = f"COMP_WORDS=(resnet-keras {' '.join(words)}); COMP_CWORD={len(words)}"
        code = f'source {script}; {line}; _tyro_resnet_keras; printf "%s\\n" "${{COMPREPLY[@]}}"'
        return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert completed("tr") == ["train"]
    assert completed("train", "digits", "--learning") == ["--learning-rate"]
    assert completed("experiment", "gradients", "--dep") == ["--depths"]


def test_completion_of_another_shell(capsys: Capture) -> None:
    assert main(["completion", "bsh"]) == 2
    assert "unknown shell 'bsh'; choose from bash, zsh, fish" in capsys.readouterr().err


def test_tyro_s_switch_for_colours_is_there() -> None:
    assert "ansi_codes" in tyro._experimental_options


@pytest.mark.parametrize("words", [[], ["train"], ["train", "digits"], ["serve"], ["experiment"]])
def test_it_fits_a_narrow_terminal(
    words: list[str], terminal: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = re.sub("\033.*?m", "", help_of(capsys, *words))
    assert max(len(line) for line in text.splitlines() if not line.startswith("usage: ")) <= 40
