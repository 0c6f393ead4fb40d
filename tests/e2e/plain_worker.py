"""`train.py` for tests: with a network without BatchNorm, whose curve must not depend on the number of processes."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from trainer_classification import cli
from trainer_classification.config import TrainConfig
from trainer_classification.training import initial_weights, loop, setup, start, step
from trainer_classification.training.distributed import World


def plain(name, num_classes, channels, image_size, width=16):
    layers = (nn.Conv2d(channels, 16, 5, 2), nn.GELU(), nn.Conv2d(16, 16, 3, 2), nn.GELU(), nn.Flatten())
    model = nn.Sequential(*layers, nn.LazyLinear(num_classes))
    model(torch.zeros(1, channels, image_size, image_size))
    return model.to(memory_format=torch.channels_last)


def die_at(step, how):
    real = loop.run_steps

    def run_steps(setup, state):
        for loss in real(setup, state):
            if setup.world.rank == 1 and state.steps_done == step:
                Path("fault").touch()  # when
                if how != "raise":
                    os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGTERM}[how])
                    yield loss
                    continue
                raise ZeroDivisionError("rank 1 has a fault")
            yield loss

    loop.run_steps = run_steps


class Scarce(step.Step):
    """A step on a device whose memory holds the maps of 3 images on rank 1, and of any number on rank 0."""

    def __init__(self, model, *arguments, **options):
        world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        super().__init__(model, *arguments, **options | {"any_rank": world.any})
        if world.rank == 1:
            model.register_forward_hook(self.fail_where_too_large)

    def fail_where_too_large(self, model, images, output):
        if model.training and len(output) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


if __name__ == "__main__":
    if os.environ.get("TEST_PLAIN"):
        assert initial_weights.build  # what the training calls
        initial_weights.build = plain
    fault = os.environ.get("TEST_FAULT")
    if fault == "memory":
        setup.Step = Scarce
        wrap_ddp = World.wrap_ddp
        World.wrap_ddp = lambda self, *arguments, static: wrap_ddp(self, *arguments, static=False)
    elif fault:
        die_at(5, fault)
    cli.leave(cli.run(TrainConfig, lambda config: start.start(config, time.monotonic())))
