"""Quantize the network of an exported ONNX file to 8-bit integers, by ranges seen on images of the training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer_classification.arrays import Uint8
from trainer_classification.exporting.formats import import_extra

# What is worth integers: a layer that stays float between two of them costs more than it saves.
_QUANTIZED = ("Conv", "Add", "MaxPool", "Relu", "Clip")


def quantize(source: Path, target: Path, images: Sequence[Uint8]) -> None:
    """Write a static QDQ model: activations in uint8, weights in int8 for each channel.

    The preparation of images, the last layer and the softmax stay as they are.
    Weights use 7 of their 8 bits, because products of 8 bits overflow on x86 CPUs
    without VNNI.

    Args:
        source: file of `formats.write_onnx`.
        target: file to write.
        images: uint8 [H, W, C] each, to calibrate on.
    """
    onnx = import_extra("onnx")
    tools = import_extra("onnxruntime.quantization")
    shapes = import_extra("onnxruntime.quantization.shape_inference")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        fused = Path(folder) / "fused.onnx"
        shapes.quant_pre_process(source, fused, skip_symbolic_shape=True)
        tools.quantize_static(
            fused,
            target,
            _Calibration(images),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=_QUANTIZED,
            per_channel=True,
            reduce_range=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            nodes_to_exclude=sorted(_find_preparation(onnx.load(fused).graph)),
        )

    model = onnx.load(target)
    del model.metadata_props[:]
    model.metadata_props.extend(onnx.load(source).metadata_props)
    onnx.save(model, target)


class _Calibration:
    """Hands over images one by one, as `CalibrationDataReader` is asked for them."""

    def __init__(self, images: Sequence[Uint8]) -> None:
        self._images: Iterator[Uint8] = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        """Return the inputs of the next run, or None after the last."""
        image = next(self._images, None)
        return None if image is None else {"images": image[None]}


def _find_preparation(graph: Any) -> set[str]:
    """Return the names of the nodes that come before the first convolution."""
    producers = {output: node for node in graph.node for output in node.output}
    first = next(node for node in graph.node if node.op_type == "Conv")
    waiting = [first.input[0]]
    found = set()
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting.extend(node.input)

    return found
