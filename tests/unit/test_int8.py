"""A file in 8 bits is kept only if it is as accurate and faster, and then only its convolutions changed."""

import numpy as np
import pytest

from exported_models import EXTRA, write_checkpoint
from helpers import encoded, photograph
from trainer_classification.checkpoint.load_model import load_model
from trainer_classification.exporting import int8
from trainer_classification.exporting.check_images import LabeledFiles
from trainer_classification.exporting.comparison import predict_with_checkpoint
from trainer_classification.exporting.int8 import Int8Report, Measured, export_int8

needs_extra = pytest.mark.skipif(bool(EXTRA), reason=f"the extra `export` is not installed: {', '.join(EXTRA)}")


@pytest.fixture
def photographs(tmp_path):
    """Six files, all of the class 0."""
    paths = []
    for seed in range(6):
        paths.append(tmp_path / f"{seed}.png")
        paths[-1].write_bytes(encoded(photograph(seed, 50, 40)))
    return LabeledFiles([str(path) for path in paths], np.zeros(6, np.int64))


@pytest.fixture
def faster(monkeypatch):
    monkeypatch.setattr(int8, "time_in_turns", lambda *_: [100.0, 200.0])


@needs_extra
@pytest.mark.parametrize("format", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_the_network_is_quantized_and_the_preparation_of_images_is_not(tmp_path, photographs, faster, format):
    import onnx
    import openvino

    model = load_model(write_checkpoint(tmp_path))
    path = tmp_path / f"model{'.onnx' if format == 'onnx' else '.xml'}"
    report = export_int8(model, path, photographs.paths, photographs, format=format, largest_loss=1.0)

    assert report.quantized.megabytes < 0.6 * report.plain.megabytes, "the rest is the graph"
    loaded = openvino.Core().read_model(path)
    if format == "openvino":
        assert loaded.get_rt_info(["model_info", "network"]).value == "resnet-small"
        return
    file = onnx.load(path)
    kinds = [node.op_type for node in file.graph.node]
    assert kinds.index("QuantizeLinear") > kinds.index("MatMul"), "pixels are resized as they are"
    inputs = {name: node.op_type for node in file.graph.node for name in node.output}
    for node in file.graph.node:
        if node.op_type == "Conv":
            assert [inputs[name] for name in node.input[:2]] == ["DequantizeLinear"] * 2
    about = {entry.key: entry.value for entry in file.metadata_props}
    assert about["network"] == "resnet-small"
    left = {path.name for path in tmp_path.iterdir() if path.suffix != ".png"}
    assert left == {"model.pth", "model.onnx"}


@needs_extra
def test_answers_in_8_bits_are_near_those_in_float32(tmp_path, photographs, faster):
    import onnxruntime

    model = load_model(write_checkpoint(tmp_path))
    export_int8(model, tmp_path / "model.onnx", photographs.paths, photographs, largest_loss=1.0)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    images = int8.read_images(photographs.paths, 3, 8)
    (found,) = session.run(None, {"images": np.stack(images)})
    expected = predict_with_checkpoint(model, images)
    assert 0 < np.abs(found - expected).max() < 0.1


def report_of(plain, quantized):
    return Int8Report("m.onnx", "onnxruntime", 200, Measured(*plain, 4.0), Measured(*quantized, 1.0), None)


def test_a_loss_of_accuracy_is_refused_beyond_what_is_allowed():
    lossy = report_of((0.90, 100), (0.88, 200))
    with pytest.raises(ValueError, match=r"88\.00% on 200 images instead of 90\.00%.*allows 1\.00%"):
        int8._check(lossy, 0.01)
    int8._check(lossy, 0.03)


def test_a_file_that_is_no_faster_is_refused_as_pointless():
    with pytest.raises(ValueError, match="pointless here: 104 images/s instead of 100"):
        int8._check(report_of((0.9, 100), (0.9, 104)), 0.01)


def test_a_program_of_torch_has_no_8_bits(tmp_path, photographs):
    model = load_model(write_checkpoint(tmp_path))
    with pytest.raises(ValueError, match="writes the formats onnx and openvino, not torch-export"):
        export_int8(model, tmp_path / "m.pt2", [], photographs, format="torch-export")


@needs_extra
def test_nothing_is_left_of_a_refused_file(tmp_path, photographs, monkeypatch):
    monkeypatch.setattr(int8, "time_in_turns", lambda *_: [200.0, 100.0])
    model = load_model(write_checkpoint(tmp_path))
    (tmp_path / "model.onnx").write_text("earlier")
    with pytest.raises(ValueError, match="pointless"):
        export_int8(model, tmp_path / "model.onnx", photographs.paths, photographs, largest_loss=1.0)
    assert (tmp_path / "model.onnx").read_text() == "earlier"
    assert not list(tmp_path.glob(".model*"))
