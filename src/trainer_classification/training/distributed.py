"""Train in several processes, one for each GPU, that stay in step with each other.

DistributedDataParallel averages the gradients. A global batch is split into equal
parts, so the mean of the ranks' gradients is the gradient of the global batch,
and the learning rate depends on the global batch only. The curve does not depend
on the number of processes, with one exception: BatchNorm normalizes by the
statistics of a rank's own part. Parts of 32 images or more cost no accuracy, and
synchronizing them would cost a wait in every layer of every step. The running
statistics are those of rank 0, so a checkpoint of rank 0 has all that any number
of processes needs to resume.

No tensor goes through /dev/shm, which has 64 MB in a plain `docker run`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from trainer_classification.config import TrainConfig
from trainer_classification.environment import launched
from trainer_classification.training.nodes import Facts, locate_process, share_prepared

Prepared = TypeVar("Prepared")

dist: Any = torch.distributed  # much of it has no types
_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class World:
    """The place of this process among all processes.

    Attributes:
        rank: of this process, over all machines.
        size: number of processes, on all machines.
        local_rank: of this process, on this machine.
        local_size: number of processes on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def local_ranks(self) -> range:
        """The ranks of the processes on this machine."""
        first = self.rank - self.local_rank
        return range(first, first + self.local_size)

    @property
    def main(self) -> bool:
        """Whether this process writes the outputs."""
        return self.rank == 0

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all ranks."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def any(self, value: bool) -> bool:
        """Return whether a value is true on any rank; waits for all of them."""
        if self.size == 1:
            return value
        flag = torch.tensor(int(value))
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all ranks, stacked to [size, ...], on every rank."""
        if self.size == 1:
            return tensor[None].clone()
        rows = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(rows, tensor)
        return torch.stack(rows)

    def broadcast_state(self, model: nn.Module, buffers_only: bool = False) -> None:
        """Copy the parameters and buffers of rank 0, or only the buffers, to every rank."""
        if self.size > 1:
            for tensor in model.buffers() if buffers_only else model.state_dict().values():
                dist.broadcast(tensor.detach(), 0)

    def broadcast_object(self, make: Callable[[], Any]) -> Any:
        """Call a function on rank 0, and return its result on every rank; tensors in it must be on the CPU."""
        if self.size == 1:
            return make()
        box = [make() if self.main else None]
        dist.broadcast_object_list(box, 0, device=torch.device("cpu"))
        return box[0]

    def wrap_ddp(self, model: nn.Module, device: torch.device, static: bool) -> nn.Module:
        """Wrap a model so that its backward pass averages the gradients over all ranks.

        Args:
            model: as training calls it.
            device: of the model.
            static: True if each step uses the same graph.
        """
        if self.size == 1:
            return model
        parallel = nn.parallel.DistributedDataParallel(
            model,
            device_ids=[self.local_rank] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            static_graph=static,
        )

        return cast(nn.Module, parallel)


class StopConsensus:
    """Agree on stop and save requests across ranks with an asynchronous all-reduce on the CPU.

    The highest request of a step is found while the next step runs, and returned
    then, on every rank in the same step. A rank whose peer has died gets an error
    here at the latest.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._pending: tuple[Any, Tensor] | None = None
        self._parent = os.getppid()

    def __call__(self, request: int) -> int:
        """Return the highest request of the step before; with one process, that of this step.

        Args:
            request: 0: none, 1: save, more: stop with this exit code.
        """
        if self.world.size == 1:
            return request
        if (
            os.getppid() != self._parent
        ):  # the launcher died, so nobody else would stop this process
            request = 128 + signal.SIGTERM
        agreed = self.settle()
        tensor = torch.tensor(request)
        work = dist.all_reduce(tensor, dist.ReduceOp.MAX, async_op=True)
        self._pending = work, tensor

        return agreed

    def settle(self) -> int:
        """Wait for the exchange in progress, and return its result; 0 without one."""
        if self._pending is None:
            return 0
        work, tensor = self._pending
        self._pending = None
        work.wait()
        return int(tensor)


@contextmanager
def join_processes(
    config: TrainConfig,
    prepare: Callable[[World], Prepared],
    describe: Callable[[Prepared], Facts] | None = None,
) -> Iterator[tuple[World, Prepared]]:
    """Join the process group, and share what the first process of each machine prepares.

    Args:
        config: what the user asked for.
        prepare: called in the first process of each machine; its result must be
            picklable.
        describe: returns what has to be the same on all machines; None: nothing is
            compared.

    Yields:
        The place of this process, and the result of `prepare`.

    Raises:
        ValueError: the machines differ, or one of them could not prepare.
    """
    if not launched():
        yield World(), prepare(World())
        return

    world = World(
        *(
            int(os.environ[name])
            for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        )
    )
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(world.local_rank)

    store = next(dist.rendezvous("env://"))[0]
    prepared = share_prepared(store, locate_process(), lambda: prepare(world), describe)

    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(
        backend, store=store, rank=world.rank, world_size=world.size, timeout=_TIMEOUT
    )
    yield world, prepared
    dist.destroy_process_group()  # not after an error: it would wait for the other processes


def is_lost_peer(error: BaseException) -> bool:
    """Return True if the error only means that a peer process died."""
    if not launched() or not isinstance(error, RuntimeError):
        return False
    signs = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL", "Broken pipe")
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)
