"""The README, the docs and the guides: their links lead somewhere, and their code runs."""

import ast
import importlib.util
import inspect
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from doc_pages import Block, anchors_of, blocks_of, commands_of, files_of, links_of, prose_of
from forked import Server

import resnet_keras as rk
from resnet_keras.cli import main
from resnet_keras.cli.benchmark_command import EveryFlag
from resnet_keras.cli.flags import _flags_of
from resnet_keras.config.recipes import RECIPES
from resnet_keras.experiments.experiment_config import ExperimentConfig

ROOT = Path(rk.__file__).parents[1]
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
PAGES = [README, *GUIDES, *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL, PYTHON = ("sh", "bash"), ("python",)
CODE = [block for block in BLOCKS if block.language in SHELL + PYTHON]
MENTIONING = [*PAGES, *sorted((ROOT / "docs" / "results").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
"""Pages whose links lead somewhere, and whose text names commands."""
FLAGS_OF_OTHERS = {
    *("--help", "--logdir"),
    *("--aa", "--amp", "--aug-repeats", "--bce-loss", "--grad-accum-steps", "--lr", "--model-ema"),
    *("--model-ema-decay", "--opt", "--warmup-epochs"),
}
"""Of TensorBoard and of timm, which the pages name too."""
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def check_commands(block: Block) -> None:
    """Raises where a command of ours in a shell block, or one of its flags, does not exist."""
    for program, *rest in commands_of(block.code) if block.language in SHELL else ():
        if program == "make":
            assert set(rest) <= TARGETS, f"{block}: make has no {rest}"
        if program == "python" and rest[:2] in (["-m", "resnet_keras"], ["-m", "tuning"]):
            program, rest = "resnet-keras", (["tune"] if rest[1] == "tuning" else []) + rest[2:]
        if program == "resnet-keras":
            _check_words(rest, block)


def _check_words(words: list[str], block: Block) -> None:
    if words[0] == "train" and words[1] not in RECIPES:
        assert "/" in words[1], f"{block}: {words[1]} is neither a recipe nor a run"
        words = ["train", "finetune", *words[2:]]  # which is made where the block runs
    try:
        command: Any = main._parse(words)
        if isinstance(command, main.Train | main.Tune | main.Serve):  # others look for the files that they are given
            command.check()
    except rk.UsageError as error:
        raise AssertionError(f"{block}: resnet-keras {' '.join(words)}: {error}") from None


@pytest.mark.parametrize("page", PAGES, ids=of)
def test_commands_and_flags_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks_of(page):
        check_commands(block)
    capsys.readouterr()


@pytest.mark.parametrize("page", MENTIONING, ids=of)
def test_commands_and_flags_in_the_text_exist(page: Path) -> None:
    flags = {name: set(_flags_of(kind)) for name, kind in main.COMMANDS.items()}
    flags["train"] |= {"--optimizer"}
    flags["experiment"] = flags["degradation"] = set(_flags_of(ExperimentConfig))
    flags["benchmark"] = set(_flags_of(EveryFlag))
    every = set().union(*flags.values(), FLAGS_OF_OTHERS)
    for code in re.findall(r"`([^`]+)`", prose_of(page).replace("\n", " ")):
        words = code.split()
        if words[0] == "python":
            continue  # benchmarks/, with flags of their own
        used = {word.split("=")[0].replace("_", "-") for word in words if re.match(r"--\w", word)}
        known = every
        if words[:1] == ["resnet-keras"]:
            assert words[1] in main.COMMANDS or words[1] in ("COMMAND", "--help"), f"{of(page)}: `{code}`"
            known = flags.get(words[1], every) | {"--help"}
        if words[:1] == ["make"]:
            assert set(words[1:]) <= TARGETS, f"{of(page)}: `{code}`"
        unknown = {flag for flag in used - known if flag.replace("--no-", "--", 1) not in known}
        assert not unknown, f"{of(page)}: `{code}`: {unknown}"


def test_python_parses_and_its_names_exist() -> None:
    for block in CODE:
        if block.language == "python" or block.setup:
            tree = ast.parse(block.setup + block.code if block.language == "python" else block.setup)
            for node in ast.walk(tree):
                _check_imports(node, block)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "rk":
                    assert node.attr in rk.__all__, f"{block}: rk has no {node.attr}"
                if isinstance(node, ast.Call):
                    _check_arguments(node, block)


def _check_imports(node: ast.AST, block: Block) -> None:
    """Whether what is imported is there; of this package what is public only."""
    if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "resnet_keras":
        assert node.module.startswith("resnet_keras.tuning"), f"{block}: {node.module} is not public"
        module = importlib.import_module(node.module)
        assert all(hasattr(module, alias.name) for alias in node.names), f"{block}: {ast.unparse(node)}"
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    for name in names:
        assert block.skipped or importlib.util.find_spec(name.split(".")[0]), f"{block}: there is no {name}"


def _check_arguments(node: ast.Call, block: Block) -> None:
    """Whether a function of ours has the arguments that it is called with."""
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) and node.func.value.id == "rk":
        parameters = inspect.signature(getattr(rk, node.func.attr)).parameters
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters.values()):
            wrong = {keyword.arg for keyword in node.keywords if keyword.arg} - set(parameters)
            assert not wrong, f"{block}: rk.{node.func.attr} has no {wrong}"


@pytest.mark.parametrize("page", MENTIONING, ids=of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links_of(page):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{of(page)} links to {link}, which is not there"
        assert not anchor or anchor in anchors_of(path), f"{of(page)}: {target or of(page)} has no heading #{anchor}"


def test_readme_names_every_extra_and_every_guide() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", README.read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"\w+", row)}
    assert named == {name for name, packages in extras.items() if packages}
    linked = {(README.parent / link).resolve() for link in links_of(README)}
    assert set(GUIDES) <= linked


def test_a_block_that_is_not_run_says_why() -> None:
    for block in CODE:
        for note in block.notes:
            assert re.match(r"skip, \w+|--\w|\w+=\S|files |setup\n", note), f"{block}: the note {note!r} is unknown"


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nresnet-keras train finetune --dta x\n```",
        "```sh\nresnet-keras train finetun\n```",
        "```sh\nfor i in 1 2; do\n  X=1 resnet-keras predit a b  # as 'it'\ndone\n```",
        "<!-- test: skip, slow -->\n```sh\nsrun bash -c 'resnet-keras serve \\\n --prt 1'\n```",
        "```sh\ncd x && make nothing\n```",
    ],
)
def test_a_wrong_command_is_found(text: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(text)
    (block,) = blocks_of(tmp_path / "page.md")
    with pytest.raises(AssertionError, match=r"page.md, line \d: "):
        check_commands(block)


def test_notes_and_anchors_are_read(tmp_path: Path) -> None:
    text = """# A `b`, c
<!-- test: files x y -->
<!-- test: --epochs 1 -->

<!-- test: setup
x = 1
-->
```sh
a
```

## A b c
See [it](other.md#d).

```python
b
```
"""
    page = tmp_path / "page.md"
    page.write_text(text)
    first, second = blocks_of(page)
    assert (first.code, first.line, first.flags, first.setup) == ("a\n", 9, ("--epochs", "1"), "x = 1\n")
    assert (second.code, second.line, second.notes) == ("b\n", 16, ())
    assert files_of(page) == ["x", "y"]
    assert links_of(page) == ["other.md#d"]
    assert anchors_of(page) == {"a-b-c", "a-b-c-1"}


@pytest.fixture(scope="module")
def here(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Starts commands, for which the digits are prepared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "TFDS_DATA_DIR", data_dir)
        with Server(tmp_path_factory.mktemp("commands")) as server:
            yield server


@pytest.mark.guides
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.page == page for block in CODE)], ids=of)
def test_the_blocks_of_a_page_run_in_order(
    page: Path, here: Server, digits_run: Path, in_common: Any, tmp_path: Path
) -> None:
    from page_files import make
    from page_runner import PageRun

    for name in files_of(page):
        make(name, tmp_path, digits_run)
    with PageRun(tmp_path, here, in_common.root / "ports.lock") as running:
        for block in blocks_of(page):
            running.run(block)


@pytest.mark.guides
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```python\nx = 1\n```\n```python\nassert x == 2\n```", 'page.md", line 5, in <module>'),
        ("```sh\ntrue\nls nothing | cat\n```", "nothing"),
        ("```sh\nresnet-keras predict nothing a.jpg\n```", "ended with 2:"),
        ("```sh\nresnet-keras serve --model_base_path nothing\n```", "the server has ended:"),
    ],
)
def test_a_block_that_fails_is_found(text: str, said: str, here: Server, in_common: Any, tmp_path: Path) -> None:
    from page_runner import PageRun

    (tmp_path / "page.md").write_text(text)
    *good, bad = blocks_of(tmp_path / "page.md")
    with PageRun(tmp_path, here, in_common.root / "ports.lock") as running:
        for block in good:
            running.run(block)
        with pytest.raises(AssertionError, match=re.escape(said)):
            running.run(bad)
