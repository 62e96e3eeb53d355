"""What the containers of `deploy/` run: images, commands and flags, and how the images are made."""

import http.server
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
from doc_pages import blocks_of, commands_of
from dockerfile_parse import DockerfileParser
from manifests import COMPOSE, DEPLOY, KSERVE, MANIFESTS, ROOT, SBATCH, documents, options, programs

from resnet_keras.cli import main
from resnet_keras.errors import UsageError
from resnet_keras.serving.options import IMAGE, ServerOptions
from resnet_keras.version import __version__

DOCKERFILE = DEPLOY / "Dockerfile"
SCALE = ROOT / "docs" / "scale.md"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {f"resnet-keras:{__version__}{kind}" for kind in ("", "-gpu", "-serve", "-serve-gpu")}
PAGES = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", *(ROOT / "saved_models").glob("*.*")]
FILES = [*(path for path in DEPLOY.rglob("*") if path.is_file()), *PAGES]


def of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def check_words(image: str, words: list[str]) -> None:
    """Raises `UsageError` where what a container runs is no command of ours, or no flag of the server."""
    words = [word.replace("$(JOB_COMPLETION_INDEX)", "0") for word in words]
    command: Any = main._parse(["serve", *words] if image == IMAGE else words)
    if isinstance(command, main.Train | main.Tune | main.Serve):
        command.check()


@pytest.mark.parametrize("path", MANIFESTS, ids=of)
def test_commands_and_flags_exist(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [program for document in documents(path) for program in programs(document)]
    assert found or path.name in ("claims.yaml", KSERVE.name)
    for program in found:
        check_words(program.image, program.words)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (IMAGE, ["--model_config_fil=/models/models.config"]),
        ("", ["trian", "digits"]),
        ("", ["train", "digits", "--stratgy=multiworker"]),
        ("", ["train", "digits", "--strategy=multiworkers"]),
        ("", ["tune", "digits", "--role=boss"]),
    ],
)
def test_a_wrong_command_is_found(image: str, words: list[str]) -> None:
    with pytest.raises(UsageError):
        check_words(image, words)


def test_every_training_is_the_same_and_on_several_hosts() -> None:
    found = [program.words for path in MANIFESTS for document in documents(path) for program in programs(document)]
    trainings = [words for words in found if words[:2] == ["train", "imagenet-resnet50"]]
    (command,) = [words for words in commands_of(SBATCH.read_text()) if words[0] == "srun"]
    assert command[1] == "resnet-keras"
    check_words("", command[2:])
    trainings.append(" ".join(command[2:]).replace("--strategy ", "--strategy=").replace("dir ", "dir=").split())
    assert len(trainings) == 6
    for words in trainings:
        assert "--strategy=multiworker" in words
        where = {re.sub(r"/gcs/BUCKET", "/shared", word) for word in words}
        assert {"--data-dir=/shared/tfds", "--run-dir=/shared/runs/r50"} <= where


def test_a_search_has_one_chief_where_its_workers_look() -> None:
    (service, chief, worker) = documents(DEPLOY / "kubernetes" / "tuning.yaml")
    parsed: list[Any] = [
        main._parse([word.replace("$(JOB_COMPLETION_INDEX)", "0") for word in next(programs(job)).words])
        for job in (chief, worker)
    ]
    assert [command.role for command in parsed] == ["chief", "worker"]
    assert parsed[0].run_dir == parsed[1].run_dir
    port = parsed[0].address.rpartition(":")[2]
    assert parsed[1].address == f"{chief['metadata']['name']}-0.{service['metadata']['name']}:{port}"
    assert chief["spec"]["completions"] == 1


def images_in(text: str) -> tuple[set[str], set[str]]:
    """The images of TensorFlow Serving and of ours that a text names."""
    serving = re.findall(r"tensorflow/serving(?!/)(?:[:@][\w.-]+)?", text)
    ours = re.findall(r"(?<![\w/.-])(?:[\w.-]+/)*(resnet-keras:[\w][\w.-]*)", text)
    return set(serving), set(ours)


def test_every_image_is_the_one_we_name() -> None:
    assert images_in("image: tensorflow/serving:2.19.0") == ({"tensorflow/serving:2.19.0"}, set())
    assert images_in("a/b.c/resnet-keras:0.0.9 `tensorflow/serving`") == (
        {"tensorflow/serving"},
        {"resnet-keras:0.0.9"},
    )
    found = {path: images_in(path.read_text("utf-8")) for path in FILES}
    serving, ours = ({of(path): names[kind] for path, names in found.items() if names[kind]} for kind in (0, 1))
    assert set(serving) >= {"deploy/compose.yaml", "deploy/kubernetes/serving.yaml", "docs/guides/production.md"}
    assert all(names == {IMAGE} for names in serving.values()), serving
    assert set(ours) >= {"deploy/Dockerfile", "deploy/compose.yaml", "deploy/vertex/train.yaml", "docs/scale.md"}
    assert set.union(*ours.values()) <= OURS, ours
    in_use = {
        program.image.rpartition("/")[2] for path in MANIFESTS for one in documents(path) for program in programs(one)
    }
    assert in_use <= {*OURS, IMAGE.rpartition("/")[2], ""}
    (service,) = documents(KSERVE)
    assert service["spec"]["predictor"]["model"]["runtimeVersion"] == IMAGE.rpartition(":")[2]


class Stage:
    """One stage of a Dockerfile with those that it begins with."""

    def __init__(self, name: str, base: str, before: list[tuple[str, str]]) -> None:
        self.name, self.base, self.lines = name, base, [*before]

    def last(self, instruction: str) -> str:
        return [value for name, value in self.lines if name == instruction][-1]


def stages_of(path: Path) -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    stage = Stage("", "", [])
    for line in DockerfileParser(str(path)).structure:
        name, value = line["instruction"], line["value"]
        if name == "FROM":
            base, _, called = value.partition(" AS ")
            stage = Stage(called, base, found[base].lines if base in found else [])
            found[called] = stage
        elif name != "COMMENT":
            stage.lines.append((name, value))
    return found


STAGES = stages_of(DOCKERFILE)


def test_the_dockerfile_has_what_it_needs() -> None:
    known = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "RUN", "USER", "WORKDIR"}
    assert {name for stage in STAGES.values() for name, _ in stage.lines} <= known
    (version,) = {
        stage.base.removeprefix("python:").removesuffix("-slim") for stage in STAGES.values() if ":" in stage.base
    }
    assert f"Python {version}:" in (ROOT / "constraints.txt").read_text().splitlines()[0]
    installs = " ".join(value for stage in STAGES.values() for name, value in stage.lines if name == "RUN")
    extras = {name for found in re.findall(r"resnet-keras\[([\w,]+)\]", installs) for name in found.split(",")}
    assert extras
    assert extras <= set(PROJECT["optional-dependencies"])
    assert installs.count("pip install") == installs.count("--constraint /constraints.txt")


def test_the_dockerfile_copies_what_the_wheel_is_made_of() -> None:
    allowed = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    copies = [shlex.split(value)[:-1] for stage in STAGES.values() for name, value in stage.lines if name == "COPY"]
    copied = {word for words in copies for word in words if not words[0].startswith("--from=")}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    needed = {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", *options["package-dir"].values()}
    assert needed <= copied


@pytest.mark.parametrize("target", ["train", "serve"])
def test_images_run_our_program_as_another_user_than_root(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    stage = STAGES[target]
    assert int(stage.last("USER")) > 0
    assert stage.lines[-1][0] == "CMD"
    assert json.loads(stage.last("ENTRYPOINT")) == ["resnet-keras"]
    assert "resnet-keras" in PROJECT["scripts"]
    words = json.loads(stage.last("CMD"))
    if words != ["--help"]:
        check_words("", words)
    capsys.readouterr()


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_the_health_check_asks_the_servers_page() -> None:
    assert STAGES["train"].last("HEALTHCHECK") == "NONE"
    check = json.loads(STAGES["serve"].last("HEALTHCHECK").partition("CMD ")[2])
    assert check[0] == "python"
    address = f"127.0.0.1:{ServerOptions().rest_api_port}"
    assert address in check[2]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"127.0.0.1:{server.server_port}"
        good, wrong = (check[2].replace(address, here), check[2].replace(f"{address}/", f"{here}/nothing"))
        codes = [
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=False) for code in (good, wrong)
        ]
        server.shutdown()
    assert [done.returncode for done in codes] == [0, 1]
    (test,) = [one["healthcheck"]["test"] for one in documents(COMPOSE)[0]["services"].values() if "healthcheck" in one]
    assert test[-1] == f"</dev/tcp/{address.replace(':', '/')}"


def test_scale_page_names_every_file_and_runs_what_exists(capsys: pytest.CaptureFixture[str]) -> None:
    text = SCALE.read_text()
    assert set(re.findall(r"\bdeploy/[\w./-]*\w", text)) == {
        of(path) for path in DEPLOY.rglob("*") if path.is_file()
    } - {"deploy/Dockerfile.dockerignore"}
    ran = 0
    for block in blocks_of(SCALE):
        for words in commands_of(block.code):
            if words[:2] == ["docker", "build"]:
                assert words[words.index("--target") + 1] in STAGES
                assert words[words.index("-t") + 1] in OURS
            image = next((i for i, word in enumerate(words) if word in OURS), None)
            if words[:2] == ["docker", "run"] and image is not None and words[image + 1 :]:
                check_words("", words[image + 1 :])
                ran += 1
    assert ran
    capsys.readouterr()


@pytest.mark.parametrize(("code", "queued"), [(0, False), (1, False), (2, False), (130, True)])
def test_the_batch_script_queues_itself_again_where_it_was_stopped(code: int, queued: bool, tmp_path: Path) -> None:
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text('srun() { return "$CODE"; }\nscontrol() { echo "$@" > scontrol; }\n')
    environ = {**os.environ, "CODE": str(code), "SLURM_JOB_ID": "7"}
    assert subprocess.run(["bash", SBATCH], cwd=tmp_path, env=environ, check=False).returncode == code
    said = tmp_path / "scontrol"
    assert said.exists() == queued
    assert not queued or said.read_text() == "requeue 7\n"
    assert "requeue" in options(SBATCH.read_text())
