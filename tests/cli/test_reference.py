"""The page of commands has what the parser has."""

import re

import pytest

from resnet_keras.cli.benchmark_command import BENCHMARKS
from resnet_keras.cli.main import COMMANDS, main
from resnet_keras.cli.reference import commands_page, recipes_page
from resnet_keras.config.recipes import RECIPES

SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", commands_page(), re.MULTILINE | re.DOTALL))
OWN_WORDS = {"train": ["digits"], "experiment": ["lesions"]}


def test_the_page_has_every_command() -> None:
    assert list(SECTIONS) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_flags_of_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in BENCHMARKS if name == "benchmark" else [None]:
        assert main([name, *([kind] if kind else OWN_WORDS.get(name, [])), "--help"]) == 0
    helped = capsys.readouterr().out
    flags = set(re.findall(r"^. (?:-h, )?(--\w[\w-]*)", helped, re.MULTILINE)) - {"--help"}
    section = SECTIONS["degradation" if name == "experiment" else name]
    assert flags == set(re.findall(r"^`(--[\w-]+)", section, re.MULTILINE))


def test_a_flag_has_its_values_default_and_meaning() -> None:
    assert "`--top-k INT`\n:   Classes to name for each. Default: `5`.\n" in SECTIONS["predict"]
    assert "`--decay {constant,step,linear,poly,cosine}`\n:   After" in SECTIONS["train"]
    assert "`--verify_files`, `--no_verify_files`\n" in SECTIONS["serve"]
    assert "`MODEL`\n:   A run folder" in SECTIONS["export"]
    assert "resnet-keras publish RUN FOLDER_OR_HF_REPO [flags]" in SECTIONS["publish"]


def test_every_recipe_states_its_parts() -> None:
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", recipes_page(), re.MULTILINE | re.DOTALL))
    assert list(sections) == list(RECIPES)
    for name, section in sections.items():
        assert re.findall(r"^- \*\*(\w+)", section, re.MULTILINE)[:4] == ["Command", "Source", "Expected", "Cost"], name
    assert "- **Command:** resnet-keras train digits.\n- **Source:** ours.\n" in sections["digits"]
