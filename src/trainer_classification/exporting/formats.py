"""Write a captured program in each format: the place to add one."""

from __future__ import annotations

import errno
import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from trainer_classification.extras import import_from_extra
from trainer_classification.files import write_atomically

_OPSET = 20  # the first one with Gelu, whose parts OpenCV 5.0.0 does not read
_INPUT = "images"
_OUTPUT = "probabilities"
_SIZES = ("batch", "height", "width")

Metadata = Mapping[str, str]


@dataclass(frozen=True)
class ExportFormat:
    """A kind of file.

    Attributes:
        suffix: of its name.
        write: writes a program and its metadata to a path with that suffix.
        runtimes: names of those in `runtimes.RUNTIMES` that can read it.
        companions: suffixes of further files beside the first.
    """

    suffix: str
    write: Callable[[ExportedProgram, Metadata, Path], None]
    runtimes: tuple[str, ...]
    companions: tuple[str, ...] = ()


def import_extra(name: str) -> Any:
    """Import a module of the extra `export`.

    Raises:
        ValueError: it is not installed.
    """
    return import_from_extra(name, "export")


def write_onnx(program: ExportedProgram, metadata: Metadata, path: Path) -> None:
    """Write ONNX, weights included."""
    import_extra("onnx").save(_to_onnx(program, metadata), path)


def write_openvino(program: ExportedProgram, metadata: Metadata, path: Path) -> None:
    """Write OpenVINO's XML, and its weights beside it in float32 with the suffix .bin."""
    convert_to_openvino(_to_onnx(program, metadata), path)


def convert_to_openvino(model: Any, path: Path) -> None:
    """Write an onnx.ModelProto as OpenVINO's XML, with its metadata, and its weights beside it with the suffix .bin."""
    openvino = import_extra("openvino")
    converted = openvino.Core().read_model(model.SerializeToString())
    for entry in model.metadata_props:
        converted.set_rt_info(entry.value, ["model_info", entry.key])
    try:
        openvino.save_model(converted, path, compress_to_fp16=False)
    except RuntimeError as error:  # it names neither the file nor the reason
        reason = f"OpenVINO cannot write it ({error}); is the disk full?"
        raise OSError(errno.EIO, reason, str(path)) from error


def write_torch_export(program: ExportedProgram, metadata: Metadata, path: Path) -> None:
    """Write a program for `torch.export.load`; the metadata are JSON in its extra file metadata.json."""
    files = {"metadata.json": json.dumps(dict(metadata), ensure_ascii=False)}
    # Given a path, torch aborts the process where the disk is full.
    content = io.BytesIO()
    torch.export.save(program, content, extra_files=files)
    write_atomically(path, content.getvalue())


def _to_onnx(program: ExportedProgram, metadata: Metadata) -> Any:
    """Convert to an onnx.ModelProto that names no file of this machine."""
    onnxscript = import_extra("onnxscript")
    onnx = import_extra("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnxscript's own use of deprecated functions
        converted = torch.onnx.export(
            program,
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
            custom_translation_table={torch.ops.aten.floor_divide.default: _quotient(onnxscript)},
        )
    assert converted is not None
    model = converted.model_proto
    _clean(model.graph)
    for function in model.functions:
        _clean(function)
    _name_sizes(model.graph)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)

    return model


def _quotient(onnxscript: Any) -> Callable[..., Any]:
    """Return the translation of a quotient of integers, of which none is negative in these graphs.

    The exporter's own corrects that of negative ones, by `And`, which OpenCV has not.
    """

    def divide(self, other):  # type: ignore[no-untyped-def]
        return onnxscript.opset18.Div(self, other)

    divide.__annotations__ = dict.fromkeys(("self", "other"), onnxscript.INT64)
    return divide


def _clean(graph: Any) -> None:
    """Remove what the exporter notes of each node and value: stack traces, with the paths of this machine."""
    for entry in (*graph.node, *graph.value_info, graph):
        del entry.metadata_props[:]
        entry.doc_string = ""
    for entry in (*getattr(graph, "input", ()), *getattr(graph, "output", ())):
        if not isinstance(entry, str):
            del entry.metadata_props[:]
    for tensor in getattr(graph, "initializer", ()):
        del tensor.metadata_props[:]


def _name_sizes(graph: Any) -> None:
    """Name the free sizes of input and output."""
    for axis, name in enumerate(_SIZES):
        graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = _SIZES[0]


FORMATS = {
    "onnx": ExportFormat(".onnx", write_onnx, ("onnxruntime", "openvino", "opencv")),
    "openvino": ExportFormat(".xml", write_openvino, ("openvino",), companions=(".bin",)),
    "torch-export": ExportFormat(".pt2", write_torch_export, ("torch",)),
}
