"""Record a training step as a CUDA graph: the host launches some hundred operations at once.

With a network for small images, the GPU finishes an operation before Python has
requested the next one. Recorded and replayed (Gray, "Getting started with CUDA
graphs", NVIDIA 2019), a step costs the host a few launches, whatever it contains.
What changes from step to step is read from memory on the device: the batch, and
the learning rate.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from trainer_classification.console import log
from trainer_classification.optim.parameter_groups import store_learning_rates
from trainer_classification.training.metrics import Metrics
from trainer_classification.training.step import Step

cuda: Any = torch.cuda  # its streams and graphs have no types
# Steps before one is recorded: cuDNN tries its algorithms, and optimizer and
# scaler create their state.
WARMUP_STEPS = 3


@cache
def _get_stream(device: torch.device) -> Any:
    """Return the one stream on which this process records: for each stream cuBLAS keeps 8 to 32 MB of its own."""
    return cuda.Stream(device)


class CudaGraphStep(Step):
    """A `Step` on one GPU that is recorded after some steps, and again for images of another size.

    If recording fails, it logs the reason and continues as a `Step`.
    """

    _seen = 0
    _failed = False
    _graph: Any = None
    _recorded_for: tuple[Any, ...] = ()

    @property
    def is_recorded(self) -> bool:
        """Whether steps are replayed by now."""
        return self._graph is not None

    def _train(self, images: Tensor, labels: Tensor, step: int, metrics: Metrics) -> Tensor:
        inputs = (images.shape, id(metrics))
        if inputs != self._recorded_for:
            self._recorded_for = inputs
            self._seen = 0
            self._graph = None

        self._seen += 1
        if self._graph is None and self._seen > WARMUP_STEPS and not self._failed:
            self._record(images, labels, step, metrics)
        if self._graph is None:
            return self._train_unrecorded(images, labels, step, metrics)

        self._images.copy_(images, non_blocking=True)
        self._labels.copy_(labels, non_blocking=True)
        self._graph.replay()

        return self._loss.clone()

    def _train_unrecorded(
        self, images: Tensor, labels: Tensor, step: int, metrics: Metrics
    ) -> Tensor:
        """Take an ordinary step outside the default stream, where nothing can be recorded."""
        stream = _get_stream(images.device)
        stream.wait_stream(cuda.current_stream())
        with cuda.stream(stream):
            loss = super()._train(images, labels, step, metrics)
        cuda.current_stream().wait_stream(stream)
        return loss

    def _record(self, images: Tensor, labels: Tensor, step: int, metrics: Metrics) -> None:
        """Record a step without taking it."""
        store_learning_rates(self.optimizer, images.device)
        self._images = images.clone()
        self._labels = labels.clone()
        graph = cuda.CUDAGraph()
        try:
            # "thread_local" lets other threads, of loaders and DALI, allocate and
            # synchronize meanwhile.
            with cuda.graph(
                graph, stream=_get_stream(images.device), capture_error_mode="thread_local"
            ):
                self._loss = super()._train(self._images, self._labels, step, metrics)
        except RuntimeError as error:
            self._failed = True
            self._reset_scaler()
            reason = str(error).splitlines()[0]
            log(
                f"The step could not be recorded as a CUDA graph; the training continues without: {reason}"
            )
            return
        self._graph = graph

    def _reset_scaler(self) -> None:
        """Replace the scaler, which a failed recording leaves in the middle of a step."""
        state = self.scaler.state_dict()
        self.scaler = self._create_scaler()
        if state:
            self.scaler.load_state_dict(state)
