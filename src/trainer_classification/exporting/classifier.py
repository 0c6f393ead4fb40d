"""Join all that `predict` does to a decoded image into one module, and capture it as a program."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from trainer_classification.checkpoint.load_model import Model
from trainer_classification.exporting.evaluation_view import EvaluationView
from trainer_classification.inference.preprocess import Preprocess
from trainer_classification.models.normalize import Normalize

# A batch of 1 would be taken for a constant, and equal sides for one number.
_EXAMPLE = (2, 48, 40)


class Classifier(nn.Module):
    """Decoded images to probabilities: evaluation view, normalization, network, temperature, softmax.

    Args:
        model: of `load_model`; it is copied.

    Raises:
        ValueError: see `EvaluationView`.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        normalize = Normalize(list(model.mean), list(model.std), torch.device("cpu"))
        network = cast(Any, copy.deepcopy(model.network).cpu())
        self.view = EvaluationView(Preprocess.of_model(model))
        self.network = network.to(memory_format=torch.contiguous_format).eval()
        self.temperature = model.temperature or 1.0
        self.register_buffer("scale", normalize.scale)
        self.register_buffer("offset", normalize.offset)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, C] of any height and width to probabilities, float [B, K]."""
        normalized = self.view(images) * self.scale + self.offset
        logits = self.network(normalized)
        return torch.softmax(logits / self.temperature, dim=1)


def capture(model: Model) -> ExportedProgram:
    """Return a model's classifier as a program whose batch, height and width are free, with no local path in it.

    Raises:
        ValueError: see `Classifier`.
    """
    example = torch.zeros(*_EXAMPLE, model.channels, dtype=torch.uint8)
    sizes = {0: Dim("batch", min=1), 1: Dim("height", min=1), 2: Dim("width", min=1)}
    with torch.no_grad():
        program = torch.export.export(
            Classifier(model).eval(),
            (example,),
            dynamic_shapes={"images": sizes},
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine

    return program
