"""docs/recipes.md says what the recipes are: its values, its rows and its differences."""

import dataclasses
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from resnet_keras.config.recipes import RECIPES, recipe
from resnet_keras.config.train import TrainConfig
from resnet_keras.models.registry import named

PAGE = Path(__file__).parents[2] / "docs/recipes.md"
OURS = {"digits", "cifar10-resnet20-short", "cifar10-fast", "finetune"}
"""Recipes without a source to compare with."""
NOT_HYPERPARAMETERS = {"name", "data", "model_options"}
"""Fields of a config that no row has; the options are in `spec`."""


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    claims: tuple[tuple[str, str], ...]
    """What the column "ours" says: an expression of fields, and its value."""
    verdict: str


def rows_of(section: str) -> list[Row]:
    cells = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    assert all(len(row) == 5 for row in cells), "five columns"
    rows = []
    for _, source, where, ours, verdict in cells[2:]:
        assert source.strip()
        assert where.strip()
        claims = [re.fullmatch(r"(.+?) = (.+)", each) for each in re.findall(r"`([^`]+)`", ours)]
        assert all(claims), ours
        assert claims or verdict.strip() != "same", "a value that is the same is read from the recipe"
        rows.append(Row(tuple((c[1], c[2]) for c in claims if c), verdict.strip()))
    return rows


def sections() -> dict[str, tuple[str | None, list[Row]]]:
    """Of each recipe: the one whose table holds but for the rows here, and these."""
    found = {}
    for part in PAGE.read_text().split("\n## ")[1:]:
        name, text = part.split("\n", 1)
        base = re.search(r"^As `(.+?)`, but:", text, re.MULTILINE)
        found[name] = (base[1] if base else None, rows_of(text))
    return found


SECTIONS = sections()


def fields_of(config: TrainConfig) -> dict[str, Any]:
    """The fields of a config and of its parts, by their names, of which no two are alike; and the network's spec."""
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            values |= {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
        else:
            values[field.name] = value
    spec: Any = dataclasses.replace(named(config.model).spec, **config.model_options)  # pyright: ignore[reportArgumentType]
    return {**values, "spec": spec}


def known(name: str) -> set[str]:
    """Names in the left-hand sides of a recipe's table and of the one it builds on."""
    base, rows = SECTIONS[name]
    text = " ".join(left for row in rows for left, _ in row.claims)
    return set(re.findall(r"[a-z_][a-z_0-9]*", text)) | (known(base) if base else set())


def docstring(name: str) -> str:
    return " ".join((inspect.getdoc(RECIPES[name]) or "").split())


def test_every_recipe_with_a_source_has_a_table() -> None:
    assert set(SECTIONS) == set(RECIPES) - OURS


@pytest.mark.parametrize("name", SECTIONS)
def test_the_values_are_the_recipes(name: str) -> None:
    namespace = {**fields_of(recipe(name)), "__builtins__": {"round": round}}
    for row in SECTIONS[name][1]:
        for left, right in row.claims:
            value, said = eval(left, namespace), eval(right, {"__builtins__": {"round": round}})
            assert value == said or value == pytest.approx(said, rel=1e-9), f"{left} is {value}"


@pytest.mark.parametrize("name", SECTIONS)
def test_what_a_recipe_sets_has_a_row(name: str) -> None:
    config, default = recipe(name), TrainConfig(model=recipe(name).model)
    mine, theirs = fields_of(config), fields_of(default)
    changed = {field for field in mine if field != "spec" and mine[field] != theirs[field]}
    assert changed - NOT_HYPERPARAMETERS - known(name) == {"model"} - known(name) == set()
    assert set(config.model_options) <= known(name)


@pytest.mark.parametrize("name", [name for name, (base, _) in SECTIONS.items() if base])
def test_what_a_recipe_has_other_than_its_base_has_a_row_of_its_own(name: str) -> None:
    base, rows = SECTIONS[name]
    mine, theirs = fields_of(recipe(name)), fields_of(recipe(base or ""))
    text = " ".join(left for row in rows for left, _ in row.claims)
    own = {field for field in mine if field != "spec" and mine[field] != theirs[field]} - NOT_HYPERPARAMETERS
    specs = [dataclasses.asdict(values["spec"]) for values in (mine, theirs)]
    own |= {field for field in specs[0] if specs[0][field] != specs[1][field]} - {"blocks"}  # the model has them
    assert own <= set(re.findall(r"[a-z_][a-z_0-9]*", text))


@pytest.mark.parametrize("name", SECTIONS)
def test_a_difference_is_in_the_docstring(name: str) -> None:
    base, rows = SECTIONS[name]
    text = docstring(name)
    for row in rows:
        if row.verdict == "same":
            continue
        phrase = re.match(r"differs: .*?\*\*(.+?)\*\*", row.verdict)
        assert phrase, row.verdict
        assert "Differs" in text
        assert phrase[1] in text.partition("Differs")[2]
    if any(row.verdict != "same" for row in (SECTIONS[base][1] if base else [])):
        assert "as " in text.partition("Differs")[2].lower()
