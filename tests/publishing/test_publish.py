"""`publish`: what is written and what is not, to a folder and to a stand-in of the Hub, and loaded again."""

import dataclasses
import getpass
import importlib
import json
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from display_log import DisplayLog
from forked import Server
from hub_stand_in import OWNER, TOKEN, Hub, Repo, hub_stand_in
from small import free_ports, randomise

import resnet_keras as rk
from resnet_keras.cli.main import main
from resnet_keras.config.train import TrainConfig
from resnet_keras.errors import UsageError
from resnet_keras.models.downloads import Repository
from resnet_keras.models.weights.loading import find_weights
from resnet_keras.progress import SILENT, shown_by
from resnet_keras.publishing.publication import FILES, without_path
from resnet_keras.publishing.tensors import timm_name

# The Hub's client calls its HTTP library in a way that this calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
NAME = f"{OWNER}/digits"
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)).astype("float32")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in, to which the Hub's client talks, with an empty cache and a token that may write."""
    pytest.importorskip("huggingface_hub")
    with hub_stand_in() as server:
        constants = importlib.import_module("huggingface_hub.constants")
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def changed_run(source: Path, folder: Path, **fields: Any) -> Path:
    """A copy of a run folder, with other fields in its config."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def answers(model: keras.Model) -> np.ndarray:
    return np.asarray(model(PIXELS))


def named_net(weights: Any, run: Path) -> keras.Model:
    """The run's network, built by its name."""
    options = json.loads((run / "config.json").read_text())["model_options"]
    return rk.create_model("cifar_resnet20", classes=10, input_shape=(8, 8, 1), weights=weights, **options)


def front_matter(folder: Path) -> dict[str, Any]:
    card = pytest.importorskip("huggingface_hub").ModelCard.load(folder / "README.md")
    return card.data.to_dict()


def test_a_folder_gives_the_run_again_to_the_bit(digits_run: Path, data_dir: str, tmp_path: Path) -> None:
    done = rk.publish(digits_run, tmp_path / "deep" / "net", license="Apache-2.0")
    folder, run = Path(done.weights), rk.load_model(digits_run)
    assert {file.name: file.stat().st_size for file in folder.iterdir()} == done.files
    assert sorted(done.files) == sorted(FILES)
    for source in (folder, folder / "model.keras"):
        assert np.array_equal(answers(rk.load_model(source)), answers(run))
    for source in (folder, folder / "model.safetensors"):
        model = named_net(str(source), digits_run)
        assert np.array_equal(model(rk.preprocess_input(PIXELS, model)), answers(run))
        card = rk.model_card(model)
        assert (card.labels, card.license, card.input_size) == (tuple("0123456789"), "apache-2.0", (8, 8))
        assert card.metrics == rk.model_card(run).metrics
    again = rk.evaluate(folder, "digits", data_dir=data_dir)
    assert again.accuracy == pytest.approx(json.loads((digits_run / "metrics.json").read_text())["accuracy"])
    with pytest.raises(UsageError, match="the weights would fit and the answers be wrong: activation of stem is relu"):
        rk.create_model(
            "cifar_resnet20",
            classes=10,
            input_shape=(8, 8, 1),
            blocks="1,1,1",
            activation="silu",
            weights=str(folder / "model.safetensors"),
        )


def test_what_the_card_and_the_config_say(digits_run: Path, tmp_path: Path) -> None:
    done = rk.publish(digits_run, tmp_path / "net", license="cc-by-4.0")
    metrics = json.loads((digits_run / "metrics.json").read_text())
    front = front_matter(tmp_path / "net")
    assert (front["license"], front["library_name"], front["pipeline_tag"]) == (
        "cc-by-4.0",
        "resnet-keras",
        "image-classification",
    )
    [result] = front["model-index"][0]["results"]
    assert result["dataset"] == {"name": "digits", "type": "digits", "split": "test"}
    assert result["metrics"][0]["value"] == pytest.approx(metrics["accuracy"], abs=1e-6)
    text = (tmp_path / "net" / "README.md").read_text()
    assert f"| accuracy (top 1) | {metrics['accuracy']:.4f} |" in text
    for words in (
        "On the 360 test images",
        "1,437 training and 360 test images",
        'rk.load_model("net")',
        "timm cannot load it: timm has no cifar_resnet20",
        "Recipe: `digits`",
        "| epochs | `2` |",
        "tensorflow `2.",
        "and one run, of seed 0",
        "`cc-by-4.0`",
    ):
        assert words in text
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert config["architecture"] == "resnet_keras.cifar_resnet20"
    assert (config["num_classes"], config["label_names"]) == (10, list("0123456789"))
    use = config["pretrained_cfg"]
    assert (use["input_size"], use["crop_pct"], len(use["mean"])) == ([1, 8, 8], 1.0, 1)
    assert done.notes == ("timm cannot load it: timm has no cifar_resnet20",)
    [code] = [block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "rk.predict" in block]
    assert len(code.strip().splitlines()) <= 5


def test_five_lines_of_the_card_run(
    digits_run: Path, digit_png: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    rk.publish(digits_run, tmp_path / "net")
    monkeypatch.chdir(tmp_path)
    shutil.copy(digit_png, "image.jpg")
    text = Path("net", "README.md").read_text()
    for code in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(code, {"rk": rk, "pixels": PIXELS})
    assert re.match(r"image.jpg \d 0\.", capsys.readouterr().out)


def test_nothing_private_is_published(digits_run: Path, tmp_path: Path) -> None:
    home = tmp_path / getpass.getuser()
    fields: dict[str, Any] = {
        "data": str(home / "my_images"),
        "data_dir": str(home / "tfds"),
        "weights": str(home / "before" / "model.safetensors"),
        "data_service": "grpc://inner-host:5000",
    }
    run = changed_run(digits_run, tmp_path / "run", **fields)
    model = rk.load_model(run)
    layer: Any = model.get_layer("preprocessing")
    layer.card = dataclasses.replace(layer.card, data=fields["data"], source=fields["weights"])
    model.save(run / "model.keras")
    rk.publish(run, tmp_path / "net")
    with zipfile.ZipFile(tmp_path / "net" / "model.keras") as archive:
        archive.extractall(tmp_path / "net" / "inside")
    files = [file for file in (tmp_path / "net").rglob("*") if file.is_file() and file.suffix != ".keras"]
    assert len(files) == 6
    for file in files:
        content = file.read_bytes()
        for private in (str(tmp_path), "inner-host", f"{home.name}/", "tfds"):
            assert private.encode() not in content, f"{file.name} has {private}"
    text = (tmp_path / "net" / "README.md").read_text()
    assert "Trained on `my_images`" in text
    assert "Started from `model.safetensors`" in text
    assert rk.model_card(rk.load_model(tmp_path / "net")).data == "my_images"


@pytest.mark.parametrize(
    ("given", "published"),
    [
        ("/home/me/cats", "cats"),
        ("cats/", "cats"),
        ("C:\\Users\\me\\cats", "cats"),
        ("cifar10", "cifar10"),
        ("~", ""),
        ("..", ""),
        ("~/cats", "cats"),
        (str(Path.home()), ""),
    ],
)
def test_of_a_path_only_its_last_name(given: str, published: str) -> None:
    assert without_path(given) == published


def test_a_folder_with_something_else_is_refused(digits_run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "README.md").write_text("of mine")
    (tmp_path / "file").write_text("of mine")
    for folder, words in (
        ("full", "has something else in it, such as README.md"),
        ("file", "is a file; give a folder"),
    ):
        with pytest.raises(UsageError, match=words):
            rk.publish(digits_run, tmp_path / folder)
    with pytest.raises(UsageError, match="has something else in it, such as"):
        rk.publish(digits_run, digits_run)
    with pytest.raises(UsageError, match="private must be left out for a folder"):
        rk.publish(digits_run, tmp_path / "net", private=True)
    with pytest.raises(UsageError, match="license is an identifier such as apache-2.0"):
        rk.publish(digits_run, tmp_path / "net", license="do what you like")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]
    assert (tmp_path / "full" / "README.md").read_text() == "of mine"


def test_publishing_again_and_what_fails_leaves_the_folder(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "net"
    rk.publish(digits_run, folder)
    (folder / ".git").mkdir()
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("resnet_keras.publishing.publication.write_text", full)
        with pytest.raises(UsageError, match="cannot write to .*No space left"):
            rk.publish(digits_run, folder, license="mit")
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
    rk.publish(digits_run, folder, license="mit")
    assert rk.model_card(rk.load_model(folder)).license == "mit"
    assert (folder / ".git").is_dir()
    own_model(tmp_path / "own.keras")
    rk.publish(tmp_path / "own.keras", folder)
    assert not (folder / "model.safetensors").exists()


def own_model(path: Path) -> Path:
    """A classifier that is none of ours, in a file."""
    image = keras.Input((8, 8, 1))
    scores = keras.layers.Dense(3, activation="softmax", name="scores")(keras.layers.Flatten()(image))
    keras.Model(image, scores, name="own").save(path)
    return path


def test_a_model_of_the_user(tmp_path: Path, quick: TrainConfig) -> None:
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(10)],
        name="mine",
    )
    config = dataclasses.replace(quick, run_dir=str(tmp_path / "run"), epochs=1, model="given", model_options={})
    rk.train(config, model=model, quiet=True)
    done = rk.publish(tmp_path / "run", tmp_path / "net")
    assert (sorted(done.files), done.timm) == (["README.md", "config.json", "model.keras"], None)
    assert "the model is none of our networks: only its .keras file is published" in done.notes
    assert np.array_equal(answers(rk.load_model(done.weights)), answers(rk.load_model(tmp_path / "run")))
    text = (tmp_path / "net" / "README.md").read_text()
    assert "only the `.keras` file holds it" in text
    assert "The model was handed over in Python" in text
    features = rk.build_cifar_resnet(8, include_top=False, pooling="avg", input_shape=(8, 8, 1))
    features.save(tmp_path / "features.keras")
    with pytest.raises(UsageError, match="has no head; publish a classifier"):
        rk.publish(tmp_path / "features.keras", tmp_path / "other")


@pytest.mark.parametrize(
    ("metrics", "words", "note"),
    [
        (None, "Not measured.", "there are no figures"),
        ({"interrupted": True, "epochs": 1}, "after 1 of 2 epochs", "the run was stopped before its end"),
        ({"split": "validation"}, "the validation images by which the best epoch was picked", "timm cannot load it"),
        ({"best_epoch": 2}, "The network is that of epoch 2, the best on the validation images", "timm cannot load it"),
    ],
    ids=["no metrics", "interrupted", "validation", "best epoch"],
)
def test_runs_that_are_not_finished_or_not_tested(
    metrics: dict[str, Any] | None, words: str, note: str, digits_run: Path, tmp_path: Path
) -> None:
    run = changed_run(digits_run, tmp_path / "run")
    if metrics is None:
        (run / "metrics.json").unlink()
    else:
        known = json.loads((run / "metrics.json").read_text())
        (run / "metrics.json").write_text(json.dumps(known | metrics))
    done = rk.publish(run, tmp_path / "net")
    assert words in (tmp_path / "net" / "README.md").read_text()
    assert any(note in one for one in done.notes)
    assert bool(rk.model_card(rk.load_model(done.weights)).metrics) is (metrics is not None)
    assert bool(front_matter(tmp_path / "net").get("model-index")) is (metrics is not None)
    (run / "model.keras").unlink()
    with pytest.raises(UsageError, match="is not a run folder: it has no model.keras"):
        rk.publish(run, tmp_path / "other")


def test_packaged_weights_are_published_with_their_card(tmp_path: Path) -> None:
    rk.publish("cifar10-jpeg", tmp_path / "net")
    text = (tmp_path / "net" / "README.md").read_text()
    assert "| accuracy (top 1) | 0.8427 |" in text
    assert "There is no run beside the model" in text
    assert np.array_equal(
        find_weights(str(tmp_path / "net" / "model.safetensors")).tensors["logits/kernel"],
        rk.load_model("cifar10-jpeg").get_layer("logits").kernel.numpy(),
    )


@pytest.mark.slow
def test_timm_gets_rgb_of_a_network_that_takes_bgr(tmp_path: Path) -> None:
    card = rk.ModelCard(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), channels="BGR", labels=("a", "b"), crop=0.5)
    model = rk.build_resnet(18, classes=2, input_shape=(32, 32, 3), include_preprocessing=card)
    randomise(model)
    model.save(tmp_path / "a.keras")
    done = rk.publish(tmp_path / "a.keras", tmp_path / "net", license="mit")
    assert done.timm == "resnet18"
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    use = config["pretrained_cfg"]
    assert (config["architecture"], config["num_features"]) == ("resnet18", 512)
    assert (use["first_conv"], use["classifier"], use["crop_pct"]) == ("conv1", "fc", 0.5)
    assert (use["mean"], use["std"]) == ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    weights = find_weights(str(tmp_path / "net" / "model.safetensors"))
    assert np.array_equal(weights.tensors["conv1.weight"], rk.torch_state_dict(model)["conv1.weight"][:, ::-1])
    pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    own = rk.load_model(tmp_path / "net")
    named = rk.create_model("resnet18", classes=2, input_shape=(32, 32, 3))
    rk.load_weights(named, tmp_path / "net" / "model.safetensors")
    assert (rk.model_card(own).channels, rk.model_card(named).channels) == ("BGR", "RGB")
    assert np.array_equal(own(pixels), model(pixels))
    np.testing.assert_allclose(named(rk.preprocess_input(pixels, named)), model(pixels), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("resnet18", {"activation": "silu"}, "timm has no resnet18 with these options"),
        ("resnet18", {"antialias": True}, "timm has no resnet18 with these options"),
        ("resnet18", {"stem": "cifar"}, "timm has no resnet18 with these options"),
        ("resnet18", {"stochastic_depth": 0.1, "dropout": 0.2}, ""),
        ("plain18", {}, "timm has no plain18"),
        pytest.param(
            "vgg11",
            {"input_shape": (256, 224, 3)},
            "timm's vgg11 pools images of more than 224 pixels in another place",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_which_networks_timm_has(name: str, options: Any, why: str) -> None:
    card = rk.ModelCard(network=name)  # a run writes the name whatever its options are
    shared: dict[str, Any] = {"classes": 2, "input_shape": (32, 32, 3), "include_preprocessing": card}
    assert timm_name(rk.create_model(name, **{**shared, **options})) == (None if why else name, why)


# --- the Hub ---


def test_a_run_goes_to_the_hub_and_comes_back(hub: Hub, digits_run: Path, tiny: TrainConfig, capsys: Any) -> None:
    assert main(["publish", str(digits_run), NAME, "--license", "mit", "--private", "--json"]) == 0
    out, err = capsys.readouterr()
    done = json.loads(out)
    repo = hub.repos[NAME]
    assert (done["where"], done["weights"], done["timm"]) == (f"{hub.url}/{NAME}", f"hf://{NAME}", None)
    assert (done["commit"], repo.private, len(repo.commits)) == (repo.commits[-1][0], True, 2)
    assert set(repo.files) == {".gitattributes", *FILES}
    assert err == "note: timm cannot load it: timm has no cifar_resnet20\n"
    assert f'rk.load_model("hf://{NAME}")' in repo.files["README.md"].decode()

    run = rk.load_model(digits_run)
    assert np.array_equal(answers(rk.load_model(f"hf://{NAME}")), answers(run))
    model = named_net(f"hf://{NAME}", digits_run)
    assert np.array_equal(model(rk.preprocess_input(PIXELS, model)), answers(run))
    card = rk.model_card(model)
    assert card.labels == tuple("0123456789")
    assert (card.source, card.metrics) == (f"https://huggingface.co/{NAME}", rk.model_card(run).metrics)
    plain = named_net(None, digits_run)
    rk.load_weights(plain, NAME)
    assert rk.model_card(plain) == card

    # What was published before is there by its commit, and the newest without one.
    first = done["commit"]
    randomise(run)
    run.save(digits_run.parent / "other.keras")
    second = rk.publish(digits_run.parent / "other.keras", f"hf://{NAME}", license="mit").commit
    assert second == repo.commits[-1][0] != first
    assert np.array_equal(answers(rk.load_model(f"hf://{NAME}")), answers(run))
    assert np.array_equal(answers(rk.load_model(f"hf://{NAME}@{first}")), answers(rk.load_model(digits_run)))
    assert np.array_equal(named_net(f"hf://{NAME}@{first}", digits_run).weights[0], model.weights[0])
    hub.failures["resolve"] = 0
    assert np.array_equal(answers(rk.load_model(f"hf://{NAME}")), answers(run)), "the cache, where nothing answers"


def test_a_model_of_the_user_takes_the_place_of_tensors(hub: Hub, digits_run: Path, tmp_path: Path) -> None:
    rk.publish(digits_run, f"hf://{NAME}")
    done = rk.publish(own_model(tmp_path / "own.keras"), NAME)
    assert set(hub.repos[NAME].files) == {".gitattributes", *done.files}
    assert "model.safetensors" not in done.files
    assert find_weights(f"hf://{NAME}").tensors["scores/kernel"].shape == (64, 3)


@pytest.mark.slow
def test_training_starts_from_the_hub(hub: Hub, digits_run: Path, quick: TrainConfig, tmp_path: Path) -> None:
    rk.publish(digits_run, NAME, license="mit")
    config = dataclasses.replace(quick, weights=f"hf://{NAME}", epochs=1, run_dir=str(tmp_path / "run"))
    small = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=1e-9))
    result = rk.train(small, quiet=True)
    known = json.loads((digits_run / "metrics.json").read_text())["accuracy"]
    assert result.metrics["accuracy"] == pytest.approx(known, abs=0.05)
    done = rk.publish(result.run_dir, tmp_path / "net")
    assert front_matter(Path(done.weights))["base_model"] == NAME
    assert f"Started from `hf://{NAME}`" in (tmp_path / "net" / "README.md").read_text()


@pytest.mark.parametrize(
    ("part", "status", "words"),
    [
        ("repos/create", 401, "the Hub does not accept the token"),
        ("repos/create", 0, "Server disconnected"),
        ("preupload", 404, "there is no such repository or owner"),
        ("preupload", 500, "publish again later (the Hub answered 500)"),
        ("PUT /blobs", 403, "the token may not write there"),
        ("PUT /blobs", 0, "Server disconnected"),
        ("/commit/", 409, "somebody else has changed the repository meanwhile"),
        ("/commit/", 422, "refused with 422 (the Hub answered 422)"),
        ("/commit/", 0, "Server disconnected"),
    ],
)
def test_an_upload_that_the_hub_refuses(
    hub: Hub, part: str, status: int, words: str, digits_run: Path, capsys: Any
) -> None:
    hub.failures[part] = status
    assert main(["publish", str(digits_run), NAME]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("resnet-keras: cannot publish someone/digits: ")
    assert words in err
    assert TOKEN not in err
    if part == "repos/create":
        assert not hub.repos
        return
    assert "someone/digits was made, and has none of the files" in err
    assert len(hub.repos[NAME].commits) == 1
    if status == 409:
        hub.failures.clear()
        assert rk.publish(digits_run, NAME).commit == hub.repos[NAME].commits[1][0]


def test_no_network_is_said_at_once(hub: Hub, digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.setattr("resnet_keras.models.downloads.getproxies", dict)
    with pytest.raises(UsageError, match=r"cannot publish someone/digits: no network to 127.0.0.1 \(Conn"):
        rk.publish(digits_run, NAME)
    assert hub.requests == []


def test_repositories_that_are_not_for_it(hub: Hub, digits_run: Path) -> None:
    hub.repos[f"{OWNER}/other"] = Repo()
    hub.repos[f"{OWNER}/other"].commit("mine", {"pytorch_model.bin": b"1"})
    with pytest.raises(UsageError, match="has something else than a network .*such as pytorch_model.bin"):
        rk.publish(digits_run, f"{OWNER}/other")
    hub.repos[f"{OWNER}/third"] = Repo()
    hub.repos[f"{OWNER}/third"].commit("mine", {"config.json": b"{}", "model.safetensors": b"1"})
    with pytest.raises(UsageError, match="has something else than a network .*such as config.json"):
        rk.publish(digits_run, f"{OWNER}/third")
    hub.repos[f"{OWNER}/open"] = Repo()
    hub.repos[f"{OWNER}/open"].commit("initial commit", {".gitattributes": b""})
    with pytest.raises(UsageError, match="is there and public; make it private"):
        rk.publish(digits_run, f"{OWNER}/open", private=True)
    with pytest.raises(UsageError, match="the token may not write there"):
        rk.publish(digits_run, "hf://elsewhere/net")
    with pytest.raises(UsageError, match="the Hub answered 400"):
        rk.publish(digits_run, NAME, license="no-such-licence")
    assert {len(repo.commits) for repo in hub.repos.values()} == {1}


def test_no_token_and_strange_addresses(
    hub: Hub, digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(UsageError, match="needs a token that may write: .*; for a folder write ./someone/digits"):
        rk.publish(digits_run, NAME)
    for address, words in (
        ("hf://name", "names no repository of the Hugging Face Hub; write hf://owner/name"),
        ("hf://a/b/c", "names no repository"),
        (f"hf://{NAME}@main", "must be given without a revision"),
    ):
        with pytest.raises(UsageError, match=words):
            rk.publish(digits_run, address)
    assert hub.repos == {}
    for source, words in (
        (f"hf://{NAME}", "the Hugging Face Hub has no someone/digits; look the name up there; a private repository"),
        ("hf://name", "names no repository"),
    ):
        with pytest.raises(UsageError, match=words):
            rk.load_model(source)


def test_words_that_name_a_folder_and_words_that_name_a_repository(
    hub: Hub, digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    for target in ("net", "./someone/net", "models/net", "a/b/net", f"{tmp_path}/abs"):
        assert rk.publish(digits_run, target).commit is None
        assert (Path(target) / "model.keras").is_file()
    assert hub.repos == {}
    shutil.rmtree("someone")
    assert rk.publish(digits_run, f"{OWNER}/net").commit
    assert list(hub.repos) == [f"{OWNER}/net"]
    assert not Path(OWNER).exists()


def test_a_download_shows_how_far_it_is(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda stream: True)
    hub.repos["someone/net"] = Repo()
    hub.repos["someone/net"].commit("weights", {"model.keras": bytes(1 << 20)})
    log = DisplayLog()
    with shown_by(log):
        Repository("someone/net").file("model.keras")
    assert log.told[0] == ("begin", "fetching model.keras", 1 << 20, "B")
    assert log.told[-1] == ("end",)
    with shown_by(SILENT):
        Repository("someone/net", newest=True).file("model.keras")
    assert capsys.readouterr() == ("", "")


def test_files_that_the_hub_does_not_have(hub: Hub, digits_run: Path) -> None:
    hub.repos["timm/resnet18"] = Repo()
    commit = hub.repos["timm/resnet18"].commit("mine", {"config.json": b"{}"})
    with pytest.raises(UsageError, match=r"has no model.keras of timm/resnet18; build the network .* rk.load_weights"):
        rk.load_model("hf://timm/resnet18")
    with pytest.raises(UsageError, match=f"the Hugging Face Hub has no timm/resnet18@v{commit}"):
        rk.load_model(f"hf://timm/resnet18@v{commit}")


def test_the_program_and_its_environment(
    hub: Hub, digits_run: Path, digit_png: Path, commands: Server, tmp_path: Path, capsys: Any
) -> None:
    pytest.importorskip("huggingface_hub")
    environment: dict[str, Any] = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    code, said = commands.start(["publish", str(digits_run), NAME, "--license", "mit"], **environment).finish()
    assert code == 0, said
    assert said.splitlines()[-1] == (
        f"published README.md, config.json, model.safetensors, model.keras in {hub.url}/{NAME}; "
        f"rk.load_model('hf://{NAME}') loads it"
    )
    assert main(["predict", f"hf://{NAME}", str(digit_png), "--json"]) == 0
    assert capsys.readouterr().out.startswith('{"predictions": [{"image": ')
