"""Several processes, one for each GPU: started here or by torchrun, in step with each other, ended together.

Gradients are averaged by DistributedDataParallel. A global batch is cut into equal shares, so the mean of the ranks'
gradients is the gradient of the global batch, and the learning rate goes by the global batch: the curve does not depend
on the number of processes, but for one thing. BatchNorm normalises by the statistics of a rank's own share (a share of
32 images or more costs no accuracy, and synchronising would cost a wait in every layer of every step), and its running
statistics are those of rank 0: they come out of rank 0's images alone, so a checkpoint of rank 0 holds all there is to
resume exactly, with any number of processes.

No tensor goes through /dev/shm, which is 64 MB in a plain `docker run`.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainer_classification.config import TrainConfig
from trainer_classification.console import log
from trainer_classification.environment import cpu_count, launched

dist: Any = torch.distributed  # much of it has no types
_SHM = 1 << 30  # bytes of /dev/shm from which NCCL may use it
_STUCK_SECONDS = 8.0  # a rank that cannot answer a signal for so long is ended: within ten seconds of a peer's death
_ALONE = timedelta(minutes=30)


@dataclass(frozen=True)
class World:
    """Which process of how many this is, on all machines and on this one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes the outputs."""
        return self.rank == 0

    @property
    def threads(self) -> int:
        """CPUs for this process."""
        return max(1, cpu_count() // self.local_size)

    def sum(self, *tensors: Tensor) -> None:
        """Replace each by its sum over all ranks."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def gather(self, tensor: Tensor) -> Tensor:
        """Stacked, [size, ...], on every rank."""
        if self.size == 1:
            return tensor[None].clone()
        rows = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(rows, tensor)
        return torch.stack(rows)

    def broadcast_state(self, model: nn.Module, buffers_only: bool = False) -> None:
        """Give every rank the parameters and buffers of rank 0, or the buffers alone."""
        if self.size > 1:
            for tensor in model.buffers() if buffers_only else model.state_dict().values():
                dist.broadcast(tensor.detach(), 0)

    def broadcast_object(self, make: Callable[[], Any]) -> Any:
        """What rank 0 makes, on every rank; tensors in it must lie on the CPU."""
        if self.size == 1:
            return make()
        box = [make() if self.main else None]
        dist.broadcast_object_list(box, 0, device=torch.device("cpu"))
        return box[0]

    def wrap_ddp(self, model: nn.Module, device: torch.device, static: bool) -> nn.Module:
        """The model as it is called in training: its backward pass averages the gradients over all ranks."""
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
    """What any rank wishes, known to all of them in one and the same step, without waiting for a device.

    The greatest wish of a step is found in the background while the next step runs, and answered then. A rank whose
    peer is dead learns it here at the latest.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._pending: tuple[Any, Tensor] | None = None
        self._parent = os.getppid()

    def __call__(self, wish: int) -> int:
        """The greatest wish of the step before; of this one where there is one process."""
        if self.world.size == 1:
            return wish
        if os.getppid() != self._parent:  # the launcher is gone, and with it whoever would end us
            wish = 128 + signal.SIGTERM
        answer = self.settle()
        tensor = torch.tensor(wish)
        self._pending = dist.all_reduce(tensor, dist.ReduceOp.MAX, async_op=True), tensor
        return answer

    def settle(self) -> int:
        """Wait for what is under way; its answer."""
        if self._pending is None:
            return 0
        (work, tensor), self._pending = self._pending, None
        work.wait()
        return int(tensor)


def processes(config: TrainConfig) -> tuple[int, str]:
    """How many processes to start on this machine, and why.

    Raises:
        ValueError: more are asked for than there are GPUs.
    """
    gpus = 0 if config.device == "cpu" else torch.cuda.device_count()
    if config.processes and gpus and config.processes > gpus:
        raise ValueError(f"--processes is {config.processes}, but there are {gpus} GPUs: give {gpus} or less.")
    count = config.processes or max(1, gpus)
    return count, "--processes" if config.processes else "one for each visible GPU"


def launch(count: int, arguments: list[str], started: float, quiet: bool = False) -> int:
    """Run this very command in `count` processes through torch's elastic launcher; returns the exit code.

    Args:
        count: of processes on this machine.
        arguments: script and options, `sys.argv`.
        started: `time.time()` of the beginning, for the processes.
        quiet: a code of 1 needs no explanation.
    """
    os.environ.setdefault("LOGLEVEL", "CRITICAL")  # the launcher's own log says in 60 lines what we say in one
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.update(_surroundings(), TRAINER_STARTED=str(started))
    with tempfile.TemporaryDirectory(prefix="trainer-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id="train",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # a free port
            local_addr="localhost",  # a container without network does not know its own name
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)(*arguments)
        except SignalException as stopped:
            return 128 + int(stopped.sigval)
        except ChildFailedError as failed:
            return _explain(failed, count, quiet)
    return 0


def _surroundings() -> dict[str, str]:
    """Settings for NCCL and gloo on one machine, but for those the user made."""
    stat = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
    small = stat is None or stat.f_bavail * stat.f_frsize < _SHM
    wanted = {"GLOO_SOCKET_IFNAME": "lo"} | ({"NCCL_SHM_DISABLE": "1"} if small else {})
    return {name: value for name, value in wanted.items() if name not in os.environ}


def _explain(failed: Any, count: int, quiet: bool) -> int:
    """Say which process ended first and how; returns the code to exit with."""
    rank, failure = failed.get_first_failure()
    code = int(failure.exitcode)
    if code < 0:
        name = signal.Signals(-code).name
        how = f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        code = 128 - code
    else:
        how = f"ended with code {code}; its message is above"
    if code - 128 in (signal.SIGTERM, signal.SIGINT) or (quiet and code == 1):
        return code  # stopped as asked
    log(f"Process {rank} of {count} {how}. The training is over; --resume auto goes on from its last checkpoint.")
    return code


@contextmanager
def joined(config: TrainConfig, prepare: Callable[[], Path]) -> Iterator[tuple[World, Path]]:
    """This process's place in the world, and the prepared dataset, which the first process of a machine makes alone.

    The others look for its answer every tenth of a second, so that a signal ends them while they wait.
    """
    if not launched():
        yield World(), prepare()
        return
    world = World(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(world.local_rank)
    else:
        torch.set_num_threads(world.threads)
    store = next(dist.rendezvous("env://"))[0]
    key = f"prepared/{os.environ.get('GROUP_RANK', '0')}"
    if world.local_rank == 0:
        store.set(key, str(prepare()))
    while not store.check([key]):
        time.sleep(0.1)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=_ALONE)
    yield world, Path(store.get(key).decode())
    dist.destroy_process_group()  # not after an error: it would wait for the others


def lost_peer(error: BaseException) -> bool:
    """Whether an error says no more than that another process is gone."""
    if not launched() or not isinstance(error, RuntimeError):
        return False
    signs = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL", "Broken pipe")
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)


def start_watchdog(received: list[int]) -> Callable[[], None]:
    """Watch over the answer to signals; returns what ends the watch.

    A peer's death leaves a rank waiting for the GPU for ever, and Python runs no handler in a thread that waits in C.
    So a second thread hears of the signal through a pipe, and ends the process if the handler has not run in time.

    Args:
        received: gets an entry when the handler runs.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    done = threading.Event()

    def watch() -> None:
        if os.read(reading, 1) and not done.wait(_STUCK_SECONDS) and not received:
            sys.stderr.write(f"Process {os.environ.get('RANK', '0')} waits for one that is gone, and ends.\n")
            sys.stderr.flush()
            os._exit(128 + signal.SIGTERM)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()

    def end() -> None:
        done.set()
        signal.set_wakeup_fd(before)
        os.close(writing)  # the thread reads the end of the pipe
        thread.join()
        os.close(reading)

    return end
