"""An exported file answers as its checkpoint in every runtime, says what it is, and is not left where it does not."""

import errno
import json
import os
import re
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from exported_models import CLASSES, EXTRA, write_checkpoint
from helpers import encoded, photograph
from trainer_classification.checkpoint.load_model import load_model
from trainer_classification.exporting import command
from trainer_classification.exporting import export as exporting
from trainer_classification.exporting.check_images import make_photographs
from trainer_classification.exporting.comparison import Difference, predict_with_checkpoint
from trainer_classification.exporting.export import export, replace_atomically
from trainer_classification.exporting.formats import convert_to_openvino, import_extra, write_torch_export
from trainer_classification.exporting.runtimes import open_opencv

needs_extra = pytest.mark.skipif(bool(EXTRA), reason=f"the extra `export` is not installed: {', '.join(EXTRA)}")
BOUND = 1e-3  # of probabilities: of an image that shrinks more than fourfold some bytes differ by one
BF16_BOUND = 0.02  # where OpenVINO takes bf16 by itself, as on CPUs with instructions for it


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model and its ONNX file."""
    folder = tmp_path_factory.mktemp("exported")
    model = load_model(write_checkpoint(folder))
    return model, export(model, folder / "model.onnx")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Captured once: that takes longer than all else."""
    return exporting.capture(load_model(write_checkpoint(tmp_path_factory.mktemp("program"))))


@pytest.fixture
def captured(program, monkeypatch):
    """Exports take the program of `write_checkpoint`, whatever the model."""
    monkeypatch.setattr(exporting, "capture", lambda _: program)


@needs_extra
@pytest.mark.parametrize(
    ("network", "size", "about"),
    [
        ("resnet-small", 28, {"channels": 1, "mean": [0.1], "std": [0.3], "resized": False, "array_size": 28}),
        pytest.param("speednet", 32, {}, marks=pytest.mark.slow),
        pytest.param("resnet18", 64, {}, marks=pytest.mark.slow),
        pytest.param("efficientnet-lite0", 40, {}, marks=pytest.mark.slow),
    ],
)
def test_every_network_answers_alike_in_every_runtime(tmp_path, network, size, about):
    report = export(write_checkpoint(tmp_path, network, size, **about), tmp_path / "model.onnx")
    assert {found.name.split()[0] for found in report.differences} == {"onnxruntime", "openvino"}
    for found in report.differences:
        assert found.agreement == 1
        assert found.largest < (BF16_BOUND if "bf16" in found.name else BOUND), found
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["model.onnx", "model.pth"]


@needs_extra
@pytest.mark.parametrize(
    ("format", "suffix"), [pytest.param("openvino", ".xml", marks=pytest.mark.slow), ("torch-export", ".pt2")]
)
def test_the_other_formats_answer_alike(tmp_path, format, suffix):
    report = export(write_checkpoint(tmp_path), tmp_path / f"model{suffix}", format)
    for found in report.differences:
        assert found.largest < (BF16_BOUND if "bf16" in found.name else BOUND), found


@needs_extra
def test_an_image_alone_and_in_a_batch_of_any_size_has_the_same_answer(exported, capfd):
    import onnxruntime

    model, report = exported
    session = onnxruntime.InferenceSession(report.path)
    assert capfd.readouterr().err == "", "such as of operators that it has no kernel for"
    images = np.stack([photograph(seed, 61, 45) for seed in range(5)])
    (together,) = session.run(None, {"images": images})
    for image, row in zip(images, together, strict=True):
        assert np.abs(session.run(None, {"images": image[None]})[0] - row).max() < 1e-6
    assert np.abs(together - predict_with_checkpoint(model, list(images))).max() < 1e-4
    assert np.ptp(together[:, 0]) > 0.01, "the images are told apart"


@needs_extra
def test_a_file_says_what_it_is_and_not_where_it_was_made(exported):
    import onnx

    _, report = exported
    file = onnx.load(report.path)
    about = {entry.key: entry.value for entry in file.metadata_props}
    assert json.loads(about["class_names"]) == CLASSES
    assert about["fingerprint"] == "f"
    assert about["temperature"] == "0.5"
    assert len(about["model_id"]) == 16
    sizes = [dim.dim_param or dim.dim_value for dim in file.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", "height", "width", 3]
    assert_no_path(report.path.read_bytes())


def test_images_of_12_bits_are_compared_as_they_were_trained_on_and_the_file_says_so(tmp_path, program, monkeypatch):
    """By the upper 8 of 16 bits they would be nearly black."""
    gray = photograph(0, 30, 30, 1)[:, :, 0]
    (tmp_path / "deep.png").write_bytes(encoded(gray.astype(np.uint16) * 16))
    model = load_model(write_checkpoint(tmp_path, gray_shift=4))
    compared = []
    monkeypatch.setattr(exporting, "capture", lambda _: program)
    monkeypatch.setattr(exporting, "_compare", lambda *_: compared.extend(_[3]) or [])
    report = export(model, tmp_path / "model.pt2", "torch-export", [str(tmp_path / "deep.png")])
    assert np.array_equal(compared[0], np.repeat(gray[:, :, None], 3, 2))
    assert any("used 12 of 16 bits: pass them as np.minimum(values >> 4, 255)" in note for note in report.notes)
    files = {"metadata.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=files)
    assert json.loads(files["metadata.json"])["gray_shift"] == "4"


@pytest.mark.parametrize(("changed", "warned"), [(2, False), (3, True)])
def test_a_file_that_names_other_classes_than_predict_is_warned_of(tmp_path, monkeypatch, capsys, changed, warned):
    paths = [str(tmp_path / f"{number}.png") for number in range(20)]
    for path in paths:
        Path(path).write_bytes(encoded(photograph(0, 8, 8)))
    direct = np.tile([0.9, 0.1], (20, 1))
    decoded = direct.copy()
    decoded[:changed] = [0.1, 0.9]
    monkeypatch.setattr(command, "predict_with_checkpoint", lambda _, images: direct if images is paths else decoded)
    line = command._compare_files(load_model(write_checkpoint(tmp_path)), paths)
    assert f"top-1 agreement {1 - changed / 20:.1%}" in line
    assert ("Warning: on 15% of these images predict.py names another class" in capsys.readouterr().err) == warned


@needs_extra
@pytest.mark.slow
def test_no_format_names_a_local_path(exported, tmp_path):
    model, _ = exported
    export(model, tmp_path / "model.xml", "openvino")
    assert_no_path((tmp_path / "model.xml").read_bytes())
    assert b"model_id" in (tmp_path / "model.xml").read_bytes()


def test_a_program_names_no_local_path_and_holds_its_metadata(tmp_path, captured):
    export(write_checkpoint(tmp_path), tmp_path / "model.pt2", "torch-export")
    files = {"metadata.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=files)
    assert json.loads(json.loads(files["metadata.json"])["class_names"]) == CLASSES
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        for name in archive.namelist():
            assert_no_path(archive.read(name))


def assert_no_path(content):
    for path in (Path(__file__).parents[2], Path(sys.prefix), Path(torch.__file__).parent):
        assert str(path).encode() not in content
    assert not re.search(rb"[\w/]+/site-packages", content)


def test_a_file_that_answers_otherwise_is_not_kept(tmp_path, captured):
    model = load_model(write_checkpoint(tmp_path, temperature=3.0))
    (tmp_path / "model.pt2").write_text("old")
    with pytest.raises(ValueError, match=r"differs from the checkpoint by up to .* the file was not kept"):
        export(model, tmp_path / "model.pt2", "torch-export")
    assert (tmp_path / "model.pt2").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt2", "model.pth"]


def test_numbers_that_are_none_are_beyond_every_bound():
    assert not Difference("x", float("nan"), float("nan"), 1.0).is_within


def test_what_a_setting_mends_is_said_and_does_not_fail(tmp_path, captured, monkeypatch):
    rough = Difference("openvino, default (bf16)", 0.2, 0.01, 0.9, remedy="INFERENCE_PRECISION_HINT f32")
    monkeypatch.setattr(exporting, "compare", lambda *_: rough)
    report = export(write_checkpoint(tmp_path), tmp_path / "model.pt2", "torch-export")
    assert "open the file with INFERENCE_PRECISION_HINT f32" in report.notes[0]


def test_the_images_of_a_check_are_read_as_pixels_and_a_bad_one_is_named(tmp_path, captured):
    (tmp_path / "a.png").write_bytes(encoded(photograph(1, 50, 70)))
    report = export(write_checkpoint(tmp_path), tmp_path / "m.pt2", "torch-export", [str(tmp_path / "a.png")])
    assert report.images == 1
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"bad\.png cannot be compared on"):
        export(tmp_path / "model.pth", tmp_path / "n.pt2", "torch-export", [str(tmp_path / "bad.png")])


def test_made_images_are_of_several_sizes_and_two_of_one():
    shapes = [image.shape for image in make_photographs(40, 1)]
    assert len(set(shapes)) == len(shapes) - 1
    assert max(max(shape) for shape in shapes) > 4 * 40, "one is resized by Pillow"


@pytest.mark.parametrize(
    ("path", "format", "message"),
    [
        ("model.onnx", "tflite", "There is no format 'tflite'; there are: onnx, openvino, torch-export"),
        ("model.pt", "onnx", r"give it the suffix \.onnx"),
        ("gone/model.pt2", "torch-export", "There is no folder .*gone to write"),
    ],
)
def test_wrong_requests_are_answered_with_a_sentence(tmp_path, path, format, message):
    with pytest.raises(ValueError, match=message):
        export(write_checkpoint(tmp_path), tmp_path / path, format)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="onnxruntime is not installed: install this package's extra `export`"):
        import_extra("onnxruntime")


@pytest.mark.parametrize("version", ["4.11.0", "5.0.0"])
def test_opencv_is_asked_from_version_5_on(tmp_path, monkeypatch, version):
    seen = []
    network = SimpleNamespace(setInput=seen.append, forward=lambda: seen[-1].mean((1, 2, 3))[:, None])
    dnn = SimpleNamespace(readNetFromONNX=lambda _: network)
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__=version, dnn=dnn))
    opened = list(open_opencv(tmp_path / "model.onnx"))
    assert [runtime.name for runtime in opened] == ["opencv 5.0.0"] * version.startswith("5")
    for runtime in opened:
        assert runtime.run(np.full((2, 3, 3, 1), 7, np.uint8)).tolist() == [[7], [7]]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (400, 1)])
def test_a_point_and_a_line_are_images_too(program, tmp_path, size):
    model = load_model(write_checkpoint(tmp_path))
    image = photograph(1, *size)
    found = program.module()(torch.from_numpy(image)[None]).detach().numpy()
    assert np.abs(found - predict_with_checkpoint(model, [image])).max() < BOUND


def test_a_full_disk_is_said_of_a_torch_export(tmp_path, monkeypatch):
    """torch itself ends the process by SIGABRT where it writes the file."""
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))

    def fail(descriptor, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(OSError, match="No space left") as caught:
            write_torch_export(program, {}, tmp_path / "out.pt2")
    assert caught.value.filename == str(tmp_path / "out.pt2")
    assert list(tmp_path.iterdir()) == []

    write_torch_export(program, {"a": "b"}, tmp_path / "out.pt2")
    assert any(name.endswith("metadata.json") for name in zipfile.ZipFile(tmp_path / "out.pt2").namelist())


def test_a_kill_between_two_files_of_a_model_leaves_no_mixture_of_old_and_new(tmp_path, monkeypatch):
    target = tmp_path / "out.xml"
    target.write_text("old")
    (tmp_path / "out.bin").write_text("old")
    replace = Path.replace

    def replace_one(path, to):
        if path.suffix == ".xml":
            raise KeyboardInterrupt
        return replace(path, to)

    monkeypatch.setattr(Path, "replace", replace_one)
    with pytest.raises(KeyboardInterrupt), replace_atomically(target, (".bin",)) as temporary:
        _ = [temporary.with_suffix(suffix).write_text("new") for suffix in (".xml", ".bin")]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out.bin": "new"}


@needs_extra
def test_a_file_that_openvino_cannot_write_is_named(tmp_path, monkeypatch):
    openvino = pytest.importorskip("openvino")
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", [value], [result])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])

    def fail(*_, **__):
        raise RuntimeError("iostream error")

    monkeypatch.setattr(openvino, "save_model", fail)
    with pytest.raises(OSError, match="is the disk full") as caught:
        convert_to_openvino(model, tmp_path / "out.xml")
    assert caught.value.filename == str(tmp_path / "out.xml")
