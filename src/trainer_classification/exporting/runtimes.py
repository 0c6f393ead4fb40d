"""Open an exported file in the runtimes that can read it."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer_classification.arrays import Float32, Uint8
from trainer_classification.exporting.formats import import_extra

_PRECISION = "INFERENCE_PRECISION_HINT"
_OPENCV = 5  # the first major version that runs the files


@dataclass(frozen=True)
class Runtime:
    """A file, opened.

    Attributes:
        name: of the runtime, with its version and setting.
        run: uint8 [B, H, W, C] to probabilities, float32 [B, K].
        remedy: what the user must set where this runtime's results are too far
            off; "": nothing helps, and the file is wrong.
    """

    name: str
    run: Callable[[Uint8], Float32]
    remedy: str = ""


def open_onnxruntime(path: Path) -> Iterator[Runtime]:
    """Open a file in onnxruntime on the CPU."""
    onnxruntime = import_extra("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Uint8) -> Float32:
        return np.asarray(session.run(None, {"images": images})[0])

    yield Runtime(f"onnxruntime {onnxruntime.__version__}", run)


def open_openvino(path: Path) -> Iterator[Runtime]:
    """Open a file in OpenVINO on the CPU as it comes; before that in float32, where that is not the default."""
    openvino = import_extra("openvino")
    core = openvino.Core()
    version = openvino.__version__.split("-")[0]
    model = core.read_model(path)

    default = core.compile_model(model, "CPU")
    precision = default.get_property(_PRECISION).to_string()
    remedy = ""
    if precision != "f32":
        remedy = f'compile_model(model, "CPU", {{"{_PRECISION}": "f32"}})'
        exact = core.compile_model(model, "CPU", {_PRECISION: "f32"})
        yield Runtime(f"openvino {version}, f32", _runner(exact))
    yield Runtime(f"openvino {version}, default ({precision})", _runner(default), remedy)


def open_opencv(path: Path) -> Iterator[Runtime]:
    """Open a file in OpenCV's dnn, where OpenCV 5 or later is installed; earlier ones do not run it."""
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError:
        return
    if int(cv2.__version__.partition(".")[0]) < _OPENCV:
        return
    network = cv2.dnn.readNetFromONNX(str(path))

    def run(images: Uint8) -> Float32:
        network.setInput(images)
        return np.array(network.forward())

    yield Runtime(f"opencv {cv2.__version__}", run)


def open_torch(path: Path) -> Iterator[Runtime]:
    """Open a program in torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about buffers that nobody writes to
        module = torch.export.load(path).module()

    def run(images: Uint8) -> Float32:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(images)).numpy())

    yield Runtime(f"torch {torch.__version__}", run)


def _runner(compiled: Any) -> Callable[[Uint8], Float32]:
    """Return a function that copies the result, whose memory the next request overwrites."""
    return lambda images: np.array(compiled(images)[0])


RUNTIMES: dict[str, Callable[[Path], Iterator[Runtime]]] = {
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
    "opencv": open_opencv,
    "torch": open_torch,
}
