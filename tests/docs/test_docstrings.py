"""The docstrings of what is public: each has an example, and the examples run and print what they say."""

import ast
import builtins
import dataclasses
import doctest
import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf

import resnet_keras as rk
import tuning
from resnet_keras.training.devices import make_strategy

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = {name: getattr(rk, name) for name in rk.__all__ if name not in ("__version__", "RECIPES")}
PUBLIC |= {name: getattr(tuning, name) for name in tuning.__all__}
GIVEN = {"rk": rk, "keras": keras, "keras_tuner": keras_tuner, "np": np, "tf": tf, "dataclasses": dataclasses}
GIVEN |= {name: getattr(tuning, name) for name in tuning.__all__}
"""What an example may take as imported, beside what it names itself."""
DOCTESTS = doctest.DocTestParser()


def docstring(name: str) -> str:
    if name == "RECIPES":
        source = (ROOT / "resnet_keras" / "config" / "recipes.py").read_text("utf-8")
        return inspect.cleandoc(source.partition("RECIPES: ")[2].split('"""')[1])
    return inspect.cleandoc(PUBLIC[name].__doc__ or "")


def examples(name: str) -> list[doctest.Example]:
    return DOCTESTS.get_examples(docstring(name).partition("\nExamples:\n")[2], name)


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class of ours defines itself."""
    for name, member in vars(kind).items():
        if not name.startswith("_") and isinstance(member, types.FunctionType | classmethod | staticmethod | property):
            yield name, member


NAMES = [*PUBLIC, "RECIPES"]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_an_example_of_names_that_exist(name: str) -> None:
    found = examples(name)
    assert found, f"the docstring of {name} has no section Examples with >>>"
    tree = ast.parse("".join(example.source for example in found))
    known = {*GIVEN, *vars(builtins)}
    known |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    known |= {str(node.name) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ExceptHandler)}
    known |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    unknown = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - known
    assert not unknown
    of_ours = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "rk"
    ]
    assert {node.attr for node in of_ours} <= {*rk.__all__}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func in of_ours):
        assert isinstance(call.func, ast.Attribute)
        accepted = inspect.signature(getattr(rk, call.func.attr))
        accepted.bind(*call.args, **{word.arg: word.value for word in call.keywords if word.arg})


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_describes_what_it_takes_and_gives(name: str) -> None:
    """The arguments of a function in its Args; the methods of a class in docstrings of their own."""
    kind, text = PUBLIC[name], docstring(name)
    if isinstance(kind, type):
        own = [member for member, value in members(kind) if not inspect.getdoc(value)]
        assert not own, f"{name} has no docstring for {own}"
        return
    described = re.findall(r"^    \*{0,2}(\w+): ", text.partition("Args:\n")[2], re.MULTILINE)
    missing = [argument for argument in inspect.signature(kind).parameters if argument not in described]
    assert not missing, f"the docstring of {name} does not describe {missing}"


def test_the_reference_has_each_public_name_once() -> None:
    pages = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "docs" / "reference").glob("*.md")))
    listed = re.findall(r"^::: (?:resnet_keras|tuning)\.(\w+)$", pages, re.MULTILINE)
    assert sorted(listed) == sorted(NAMES)


@pytest.fixture(scope="module")
def folder(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has what the examples take as given: a run, and an image."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "runs").mkdir()
    (folder / "runs" / "digits").symlink_to(digits_run)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), "uint8")
    (folder / "cat.jpg").write_bytes(tf.io.encode_jpeg(pixels).numpy())
    return folder


@pytest.mark.guides
@pytest.mark.filterwarnings("ignore:(getName|currentThread)\\(\\) is deprecated:DeprecationWarning")  # KerasTuner's
@pytest.mark.parametrize("name", NAMES)
def test_an_example_prints_what_it_says(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    # TensorFlow numbers the collective operations of two strategies alike, and other tests of the process have one.
    mirrored = make_strategy("mirrored")
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: mirrored)
    test = doctest.DocTest(examples(name), {**GIVEN}, name, None, None, docstring(name))
    printed: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=printed.append)
    assert result.attempted
    assert not result.failed, "".join(printed)
