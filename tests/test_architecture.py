"""The layers of the package, its public names, and what importing it costs."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import resnet_keras as rk

PACKAGE = Path(rk.__file__).parent
# A module may import what is in its own row or a row above.
ROWS = [
    {"version", "startup", "errors", "files"},
    {"specs", "config", "card", "recipes"},
    {"names"},
    {"norms", "layers", "blocks", "data", "pooling"},
    {"assembly", "features", "lineage", "resnet", "runs", "weights", "zoo"},
    {"evaluation", "explanation", "prediction"},
    {"reporting", "export"},
    {"training", "serving"},
    {"demo", "experiments"},
    {"cli", "commands", "flags"},
]
STANDARD_LIBRARY_ONLY = ROWS[0] | ROWS[1] | ROWS[2]
FILES = sorted(PACKAGE.rglob("*.py"))


def imports_of(file: Path) -> set[str]:
    """What a file imports: module names, ours with their dots."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", [f for f in FILES if part_of(f) != "__init__"], ids=str)
def test_imports_go_down(file: Path) -> None:
    row = {part: level for level, parts in enumerate(ROWS) for part in parts}
    own = part_of(file)
    for name in imports_of(file):
        package, _, rest = name.partition(".")
        if package == "resnet_keras":
            part = rest.split(".")[0]
            assert part in row, f"{file.name} imports {name} from the package's front; name its module"
            assert row[part] <= row[own], f"{own} imports {part}, which stands above it"
        elif own in STANDARD_LIBRARY_ONLY - {"startup"}:
            assert package in sys.stdlib_module_names, f"{own} is standard library only, but imports {name}"


def test_no_peer_is_imported() -> None:
    peers = {"torch", "timm", "torchvision", "keras_hub", "keras_cv", "tuning", "benchmarks"}
    assert not peers & {name.split(".")[0] for file in FILES for name in imports_of(file)}


def test_public_names() -> None:
    fixed = {"build_resnet", "build_cifar_resnet", "create_model", "list_models", "complexity", "Complexity", "train"}
    assert fixed | {"TrainResult", "export_servable", "__version__"} <= set(rk.__all__)
    assert sorted(rk.__all__) == sorted({*rk._HOMES, "__version__"})
    for name in rk.__all__:
        assert getattr(rk, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = rk.no_such_name


def test_every_module_imports() -> None:
    for file in (f for f in FILES if f.name != "__init__.py"):
        importlib.import_module(".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts))


def test_files_stay_small() -> None:
    assert {f.name: n for f in FILES if (n := len(f.read_text().splitlines())) > 400} == {}


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_import_is_silent_and_registers_the_layers() -> None:
    code = "import resnet_keras, keras; print(keras.saving.get_registered_object('resnet_keras>BottleneckBlock'))"
    done = run_python(code)
    assert "BottleneckBlock" in done.stdout
    assert done.stderr == ""


def test_help_does_not_wait_for_tensorflow() -> None:
    code = (
        "import sys; sys.argv = ['bin/resnet-keras', 'train', 'digits', '--help']\n"
        "from resnet_keras.cli import main; assert main() == 0; assert 'tensorflow' not in sys.modules"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "--learning-rate" in done.stdout


def test_the_table_of_models_does_not_wait_for_tensorflow() -> None:
    code = (
        "import sys; sys.argv = ['bin/resnet-keras', 'models', '*50*', '--json']\n"
        "from resnet_keras.cli import main; assert main() == 0; assert 'tensorflow' not in sys.modules"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "resnetrs50" in done.stdout
