"""What a servable's graph needs of a server is in its manifest, and a server that lacks it is named before."""

from pathlib import Path

import keras
import pytest
import tensorflow as tf
from released import LongShape, WebP, classifier_with
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

import resnet_keras as rk
from resnet_keras.cli.main import main
from resnet_keras.errors import UsageError
from resnet_keras.export.graph_needs import check_release, needs_of
from resnet_keras.export.releases import RELEASES, added_after, release_of
from resnet_keras.export.servable import manifest_of

POOL = keras.layers.GlobalAveragePooling2D


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rk.export_servable(classifier_with(POOL(), LongShape()), tmp_path_factory.mktemp("models") / "net")


def meta_of(version: Path) -> graph_pb2.GraphDef:
    saved = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    assert saved.meta_graphs[0].meta_info_def.stripped_default_attrs
    return saved.meta_graphs[0].graph_def


def test_the_manifest_has_what_the_graph_needs(version: Path) -> None:
    manifest, graph = manifest_of(version), meta_of(version)
    assert manifest["versions"]["tensorflow"] == tf.__version__
    needs = manifest["graph"]
    assert (needs["producer"], needs["min_consumer"]) == (tf.version.GRAPH_DEF_VERSION, graph.versions.min_consumer)
    assert needs["operations"] == sorted(set(needs["operations"]))
    assert {node.op for node in graph.node} < set(needs["operations"])
    # Images are decoded in functions of tf.data and of tf.cond.
    assert "DecodeImage" in set(needs["operations"]) - {node.op for node in graph.node}
    assert not {function.signature.name for function in graph.library.function} & set(needs["operations"])
    assert "for_serving" not in manifest


def test_attributes_that_have_their_default_are_not_in_the_graph(version: Path) -> None:
    """Else one that an earlier TensorFlow does not know, and does not need, would be refused."""
    (convolution,) = (node for node in meta_of(version).node if node.op == "Conv2D")
    assert "strides" in convolution.attr
    assert not {"data_format", "explicit_paddings", "use_cudnn_on_gpu"} & set(convolution.attr)


def test_what_a_server_does_not_know_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classifier_with(POOL(), WebP()).save(tmp_path / "net.keras")
    words = ["export", str(tmp_path / "net.keras"), "--output", str(tmp_path / "models" / "net"), "--quiet"]
    assert main([*words, "--for-serving", "2.19"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "TensorFlow Serving 2.19 does not know DecodeWebP, which this network's graph has" in said[0]
    assert not (tmp_path / "models" / "net").exists()
    assert not list((tmp_path / "models").glob("*"))
    assert main([*words, "--for-serving", "2.20.0"]) == 0
    assert "WebP" not in capsys.readouterr().err
    assert manifest_of(tmp_path / "models" / "net" / "1")["for_serving"] == "2.20"


def test_a_server_that_reads_no_webp_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classifier_with(POOL()).save(tmp_path / "net.keras")
    words = ["export", str(tmp_path / "net.keras"), "--output", str(tmp_path / "net"), "--quiet"]
    assert main([*words, "--for-serving", "2.19"]) == 0
    assert "TensorFlow Serving 2.19 reads no WebP;" in capsys.readouterr().err
    assert manifest_of(tmp_path / "net" / "1")["for_serving"] == "2.19"


@pytest.mark.parametrize("release", ["2.19", "2.20"])
def test_an_attribute_that_is_new_is_refused(version: Path, release: str) -> None:
    """Where it has another value than its default: `Tshape` has here."""
    with pytest.raises(UsageError, match=f"Serving {release} does not know TensorListGetItem.Tshape, which"):
        check_release(meta_of(version), release)
    check_release(meta_of(version), "2.21")


def test_a_type_that_an_operation_did_not_take_is_refused() -> None:
    graph = graph_pb2.GraphDef()
    node = graph.node.add(name="range", op="Range")
    node.attr["Tidx"].type = tf.int32.as_datatype_enum
    check_release(graph, "2.19")
    node.attr["Tidx"].type = tf.uint64.as_datatype_enum
    with pytest.raises(UsageError, match="does not know Range.Tidx=uint64"):
        check_release(graph, "2.19")


def test_a_graph_that_is_for_later_versions_is_refused() -> None:
    graph = graph_pb2.GraphDef()
    graph.versions.min_consumer = RELEASES["2.19"].graph_def_version
    check_release(graph, "2.19")
    graph.versions.min_consumer += 1
    with pytest.raises(UsageError, match="2.19 reads graphs of version 2129, and this one is for 2130 and later"):
        check_release(graph, "2.19")
    check_release(graph, "2.20")
    graph.versions.bad_consumers.append(RELEASES["2.20"].graph_def_version)
    with pytest.raises(UsageError, match="2.20 reads graphs of version 2288"):
        check_release(graph, "2.20")


def test_a_call_by_a_functions_name_is_no_operation() -> None:
    graph = graph_pb2.GraphDef()
    graph.library.function.add().signature.name = "DecodeWebP"
    graph.node.add(name="call", op="DecodeWebP")
    assert needs_of(graph)["operations"] == []
    check_release(graph, "2.19")


def test_a_tensorflow_that_is_newer_than_the_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf, "__version__", "2.22.0")
    with pytest.raises(UsageError, match=r"this TensorFlow 2.22 added since 2.21 is not known .* TensorFlow 2.21$"):
        check_release(graph_pb2.GraphDef(), "2.19")


def test_releases_that_are_not_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "net.keras"), "--for-serving", "2.6.2"]) == 2
    assert "unknown release of TensorFlow Serving '2.6.2'; choose from 2.19, 2.20, 2.21" in capsys.readouterr().err
    with pytest.raises(UsageError, match="choose from 2.19, 2.20, 2.21"):
        rk.export_servable(classifier_with(POOL()), tmp_path / "net", for_serving="2")
    assert release_of("2.19.1") == "2.19"
    assert added_after("2.21") == frozenset()
    assert added_after("2.20") < added_after("2.19")


def test_other_formats_are_for_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classifier_with(POOL()).save(tmp_path / "net.keras")
    words = ["export", str(tmp_path / "net.keras"), "--output", str(tmp_path / "net.tflite"), "--format", "litert"]
    assert main([*words, "--for-serving", "2.20"]) == 2
    assert "no --version, --labels, --reduce-range or --for-serving" in capsys.readouterr().err
