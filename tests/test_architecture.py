"""The layers of the package, its public names, and what importing it costs."""

import ast
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import resnet_keras as rk

ROOT = Path(rk.__file__).parents[1]
PACKAGE = ROOT / "resnet_keras"
# A file may import what is in its own row or a row above.
ROWS = [
    {"version", "startup", "errors", "files"},
    {"config"},
    {"models"},
    {"data"},
    {"inference"},
    {"export", "reports"},
    {"training", "serving"},
    {"experiments", "tuning"},
    {"cli"},
]
NOT_YET = {"tuning.__main__": {"resnet_keras.cli.flags"}}
"""Imports that go up until their files are taken apart."""
STANDARD_LIBRARY_ONLY = {"version", "errors", "files", "config", "models/spec", "models/registry", "models/card"}
FILES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "tuning").rglob("*.py")])
FILES.remove(PACKAGE / "__init__.py")


def module_of(file: Path) -> str:
    """A file's name in an import: `resnet_keras.models.spec`."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file): file for file in FILES}


def imports_of(file: Path) -> set[str]:
    """What a file imports: module names, ours with their dots."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_imports(file: Path) -> set[str]:
    """The modules of this project that a file imports."""
    found = set()
    for name in imports_of(file):
        if name.split(".")[0] in ("resnet_keras", "tuning"):
            known = name if name in MODULES else name.rpartition(".")[0]
            assert known in MODULES, f"{file} imports {name} from the package's front; name its module"
            found.add(known)
    return found


def room_of(module: str) -> str:
    return module.removeprefix("resnet_keras.").split(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    row = {room: level for level, rooms in enumerate(ROWS) for room in rooms}
    own = room_of(module)
    for name in own_imports(MODULES[module]) - NOT_YET.get(module, set()):
        assert row[room_of(name)] <= row[own], f"{own} imports {name}, which stands above it"


def test_the_ground_is_the_standard_library_only() -> None:
    for module, file in MODULES.items():
        place = module.removeprefix("resnet_keras.").replace(".", "/")
        if place in STANDARD_LIBRARY_ONLY or place.split("/")[0] in STANDARD_LIBRARY_ONLY:
            for name in imports_of(file):
                package = name.split(".")[0]
                assert package == "resnet_keras" or package in sys.stdlib_module_names, f"{place} imports {name}"


def test_no_circle_of_files() -> None:
    graph = {module: own_imports(file) - NOT_YET.get(module, set()) for module, file in MODULES.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"files import one another: {' -> '.join(error.args[1])}")


def test_no_peer_is_imported() -> None:
    peers = {"torch", "timm", "torchvision", "keras_hub", "keras_cv", "benchmarks"}
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
    for module in MODULES:
        importlib.import_module(module)


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
        "from resnet_keras.cli.main import main; assert main() == 0; assert 'tensorflow' not in sys.modules"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "--learning-rate" in done.stdout


def test_the_table_of_models_does_not_wait_for_tensorflow() -> None:
    code = (
        "import sys; sys.argv = ['bin/resnet-keras', 'models', '*50*', '--json']\n"
        "from resnet_keras.cli.main import main; assert main() == 0; assert 'tensorflow' not in sys.modules"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "resnetrs50" in done.stdout
