"""A step as one CUDA graph: a hundred and more operations that the host starts at once, not one after the other.

Networks for small images are done with an operation sooner than Python has asked for the next one. Recorded and played
back (Gray, "Getting started with CUDA graphs", NVIDIA 2019), a step costs the host a few launches, whatever it does.
What changes from step to step is read from memory on the device: the batch, and the learning rate.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from trainer_classification.console import log
from trainer_classification.optim.parameter_groups import keep_rates_on
from trainer_classification.training.metrics import Metrics
from trainer_classification.training.step import Step

cuda: Any = torch.cuda  # its streams and graphs have no types
WARM_STEPS = 3  # before a step is recorded: cuDNN tries its algorithms, and optimizer and scaler make their state


@cache
def _stream(device: torch.device) -> Any:
    """One for all that is recorded in this process: for each stream cuBLAS keeps its own 8 to 32 MB."""
    return cuda.Stream(device)


class CudaGraphStep(Step):
    """A `Step` on one GPU that is recorded when it has been seen a few times; images of another size anew.

    Where recording fails, it says so and goes on as a `Step`.
    """

    _seen = 0
    _failed = False
    _graph: Any = None
    _of: tuple[Any, ...] = ()

    @property
    def recorded(self) -> bool:
        """Whether steps are played back by now."""
        return self._graph is not None

    def _train(self, images: Tensor, labels: Tensor, step: int, totals: Metrics) -> Tensor:
        of = (images.shape, id(totals))
        if of != self._of:
            self._of, self._seen, self._graph = of, 0, None
        self._seen += 1
        if self._graph is None and self._seen > WARM_STEPS and not self._failed:
            self._record(images, labels, step, totals)
        if self._graph is None:
            return self._aside(images, labels, step, totals)
        self._images.copy_(images, non_blocking=True)
        self._labels.copy_(labels, non_blocking=True)
        self._graph.replay()
        return self._loss.clone()

    def _aside(self, images: Tensor, labels: Tensor, step: int, totals: Metrics) -> Tensor:
        """A step as ever, but not on the default stream, where nothing can be recorded."""
        stream = _stream(images.device)
        stream.wait_stream(cuda.current_stream())
        with cuda.stream(stream):
            loss = super()._train(images, labels, step, totals)
        cuda.current_stream().wait_stream(stream)
        return loss

    def _record(self, images: Tensor, labels: Tensor, step: int, totals: Metrics) -> None:
        """Record a step without taking it."""
        keep_rates_on(images.device, self.optimizer)
        self._images, self._labels, graph = images.clone(), labels.clone(), cuda.CUDAGraph()
        try:
            # Other threads may go on to allocate and to wait: the loader's, DALI's.
            with cuda.graph(graph, stream=_stream(images.device), capture_error_mode="thread_local"):
                self._loss = super()._train(self._images, self._labels, step, totals)
        except RuntimeError as error:
            self._failed = True
            scaling, self.scaler = self.scaler.state_dict(), self._new_scaler()  # it is amid a step
            self.scaler.load_state_dict(scaling) if scaling else None
            log(f"The step could not be recorded as a CUDA graph, and goes on without: {str(error).splitlines()[0]}")
            return
        self._graph = graph
