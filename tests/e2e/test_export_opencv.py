"""OpenCV 5 runs exported files: in an environment of its own, as Hafnia's SDK keeps OpenCV below 4.13."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from exported_models import EXTRA, write_checkpoint
from helpers import noise, photograph
from trainer_classification.checkpoint.load_model import load_model
from trainer_classification.exporting.classifier import capture
from trainer_classification.exporting.formats import write_onnx
from trainer_classification.exporting.metadata import describe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(EXTRA), reason=f"the extra `export` is not installed: {', '.join(EXTRA)}"),
]
OPENCV = "opencv-python-headless==5.0.0.93"
RUN = """
import sys
import cv2
import numpy as np

network = cv2.dnn.readNetFromONNX(sys.argv[1])
outputs = {}
for name, images in np.load(sys.argv[2]).items():
    network.setInput(images)
    outputs[name] = network.forward().copy()
np.savez(sys.argv[3], **outputs)
"""
# Height and width: as prepared, enlarged, reduced, beyond fourfold, a line.
SIZES = [(40, 40), (23, 31), (90, 121), (430, 77), (1, 9)]
GRAY = {"channels": 1, "mean": [0.1], "std": [0.3]}
KEPT = GRAY | {"resized": False, "array_size": 28}


@pytest.fixture(scope="module")
def opencv(tmp_path_factory):
    """The interpreter of an environment with OpenCV 5."""
    folder = tmp_path_factory.mktemp("opencv")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "0", OPENCV]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{OPENCV} cannot be installed: {done.stderr.strip()[-200:]}")
    return python


@pytest.mark.parametrize(
    ("network", "size", "crop", "about"),
    [
        ("resnet-small", 28, 0.0, KEPT),
        ("resnet-small", 32, 0.7, {}),
        ("resnet18", 32, 0.0, GRAY),
        ("speednet", 32, 0.0, {}),
        ("efficientnet-lite0", 40, 0.0, {}),
    ],
)
def test_opencv_answers_as_onnxruntime_does(opencv, tmp_path, network, size, crop, about):
    import onnxruntime

    model = load_model(write_checkpoint(tmp_path, network, size, **about))
    model = dataclasses.replace(model, eval_crop=crop)
    write_onnx(capture(model), describe(model), tmp_path / "model.onnx")
    inputs = {
        f"{make.__name__} {height} x {width}": np.stack([image, image[::-1]])
        for make in (photograph, noise)
        for height, width in SIZES
        for image in [make(1, height, width, model.channels)]
    }
    np.savez(tmp_path / "inputs.npz", **inputs)
    names = ["model.onnx", "inputs.npz", "outputs.npz"]
    subprocess.run([opencv, "-c", RUN, *(tmp_path / name for name in names)], check=True)

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    outputs = np.load(tmp_path / "outputs.npz")
    for name, images in inputs.items():
        (expected,) = session.run(None, {"images": images})
        assert np.abs(outputs[name] - expected).max() < 1e-3, name
    if network == "resnet-small":  # random weights of deeper ones hardly tell images apart
        assert np.ptp([outputs[name][0] for name in inputs], axis=0).max() > 0.01
