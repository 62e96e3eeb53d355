"""The layers of the package, its public names, and what importing it costs."""

import ast
import graphlib
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import resnet_keras as rk

ROOT = Path(rk.__file__).parents[1]
PACKAGE = ROOT / "resnet_keras"
# A file may import what is in its own row or a row above.
ROWS = [
    {"version", "startup", "errors", "files", "progress"},
    {"remote"},
    {"config"},
    {"models"},
    {"data"},
    {"inference"},
    {"export", "publishing", "reports"},
    {"training", "serving"},
    {"experiments", "tuning", "benchmarks"},
    {"cli"},
]
STANDARD_LIBRARY_ONLY = {
    "version",
    "errors",
    "files",
    "progress",
    "remote",  # TensorFlow and fsspec by name, for the scheme that needs them
    "config",
    "models/spec",
    "models/layer_norm_specs",
    "models/norm_names",
    "models/registry",
    "models/card",
    "export/releases",
    # What starts the processes of a benchmark: beside a peer's, TensorFlow would be in the way.
    *(
        f"benchmarks/{name}"
        for name in (
            *("pairs", "variants", "child", "workers", "rounds", "machine"),
            *("settings", "server_settings", "serving", "report", "against"),
        )
    ),
}
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
        elif isinstance(node, ast.ImportFrom):
            package = module_of(file.parents[node.level - 1]) if node.level else ""
            module = ".".join(part for part in (package, node.module) if part)
            names |= {f"{module}.{alias.name}" for alias in node.names}
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
    if module.endswith("__main__"):
        return "cli"  # it is a program
    return module.removeprefix("resnet_keras.").split(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    row = {room: level for level, rooms in enumerate(ROWS) for room in rooms}
    own = room_of(module)
    for name in own_imports(MODULES[module]):
        assert row[room_of(name)] <= row[own], f"{own} imports {name}, which stands above it"


def test_the_ground_is_the_standard_library_only() -> None:
    for module, file in MODULES.items():
        place = module.removeprefix("resnet_keras.").replace(".", "/")
        if place in STANDARD_LIBRARY_ONLY or place.split("/")[0] in STANDARD_LIBRARY_ONLY:
            for name in imports_of(file):
                package = name.split(".")[0]
                assert package == "resnet_keras" or package in sys.stdlib_module_names, f"{place} imports {name}"


def test_no_circle_of_files() -> None:
    graph = {module: own_imports(file) for module, file in MODULES.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"files import one another: {' -> '.join(error.args[1])}")


def test_no_peer_is_imported() -> None:
    peers = {"torch", "timm", "torchvision", "keras_hub", "keras_cv", "jax", "openvino", "nncf", "benchmarks"}
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


def test_every_folder_is_packaged() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {module_of(file.parent) for file in FILES if file.parent != ROOT / "tuning"}
    assert set(options["packages"]) == {*folders, "resnet_keras.tuning"}
    assert options["package-dir"]["resnet_keras.tuning"] == "tuning"
    patterns = options["package-data"]["resnet_keras"]
    data = [file for file in PACKAGE.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    unpacked = [f for f in data if not any(f.relative_to(PACKAGE).match(pattern) for pattern in patterns)]
    assert not unpacked, "files that pyproject.toml's package-data leaves out"


def test_files_stay_small() -> None:
    assert {f.name: n for f in FILES if (n := len(f.read_text().splitlines())) > 400} == {}


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_import_is_silent_and_registers_the_layers() -> None:
    code = "import resnet_keras, keras; print(keras.saving.get_registered_object('resnet_keras>BottleneckBlock'))"
    done = run_python(code)
    assert "BottleneckBlock" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("words", [("train", "digits"), ("tune", "digits"), ("experiment", "gradients")])
def test_help_does_not_wait_for_tensorflow(words: tuple[str, str]) -> None:
    code = (
        f"import sys; sys.argv = ['bin/resnet-keras', *{words!r}, '--help']\n"
        "from resnet_keras.cli.main import main; assert main() == 0; assert 'tensorflow' not in sys.modules"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "--run-dir" in done.stdout


def test_the_module_is_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "resnet_keras", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"resnet-keras {rk.__version__}\n"
    assert "tensorflow" not in done.stderr


def test_the_table_of_models_does_not_wait_for_tensorflow() -> None:
    code = (
        "import sys; sys.argv = ['bin/resnet-keras', 'models', '*50*', '--json']\n"
        "from resnet_keras.cli.main import main; assert main() == 0; assert 'tensorflow' not in sys.modules"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "resnetrs50" in done.stdout
