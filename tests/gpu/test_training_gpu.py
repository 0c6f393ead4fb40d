"""Steps and whole trainings on a GPU; needs torch and numpy alone."""

import dataclasses
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from harness.synthetic import write_prepared
from trainer_classification.augment.mixup import Mixing
from trainer_classification.config import TrainConfig
from trainer_classification.data import manifest
from trainer_classification.loaders.base import Batch
from trainer_classification.models import build
from trainer_classification.models.normalize import Normalize
from trainer_classification.optim.ema import ModelEma
from trainer_classification.optim.parameter_groups import build_optimizer, set_learning_rate
from trainer_classification.recipes import RECIPES, SPEED_RECIPES
from trainer_classification.training import loop
from trainer_classification.training import train as training
from trainer_classification.training.cuda_graph import CudaGraphStep
from trainer_classification.training.metrics import Metrics
from trainer_classification.training.preflight import preflight
from trainer_classification.training.start import start
from trainer_classification.training.step import Step
from trainer_classification.training.step_timer import StepTimer

CUDA = torch.device("cuda")
CLASSES = 4


def images_of(count, side, seed):
    """Images whose brightness tells the class, with noise."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    noise = random.integers(0, 60, (count, side, side, 3))
    return (noise + 60 * labels[:, None, None, None]).astype(np.uint8), labels


def prepared(folder, side, train_size):
    splits = {
        name: images_of(count, side, seed)
        for seed, (name, count) in enumerate({"train": 512, "validation": 130, "test": 130}.items())
    }
    return write_prepared(folder, "made-up", splits, train_size) and folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Images of 32 px, kept at their size."""
    return prepared(tmp_path_factory.mktemp("small") / "p", 32, 32)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Images that are cropped and resized."""
    return prepared(tmp_path_factory.mktemp("large") / "p", 80, 64)


def trained(folder, out, **options):
    options = {"model": "resnet-small", "batch_size": 64, "epochs": 3, "learning_rate": 0.05} | options
    config = TrainConfig(device="cuda", output_dir=str(out), **options)
    return training.train_prepared(config, folder, manifest.read(folder), time.monotonic())


PRECISIONS = {"fp16": "float16", "bf16": "bfloat16", "off": "float32"}


@pytest.mark.parametrize(
    "options",
    [
        *({"amp": amp} for amp in PRECISIONS),
        {"amp": "fp16", "optimizer": "adamw", "learning_rate": 0.01, "clip_norm": 1.0},
        {"amp": "fp16", "accumulate": 2, "ema": 0.9},
        {"mixup": 0.2, "cutmix": 1.0, "cutout": 8, "tta": "flip"},
        {"model": "speednet", "amp": "fp16", "optimizer": "muon", "learning_rate": 0.05},
        {"compile": "off"},
        {"compile": "default"},
        {"compile": "reduce-overhead", "ema": 0.9},
        {"compile": "reduce-overhead", "amp": "fp16", "tta": "flip"},
    ],
    ids=lambda options: ",".join(f"{name}={value}" for name, value in options.items()),
)
def test_training_learns(small, tmp_path, options):
    summary = trained(small, tmp_path, **options)
    assert summary["accuracy_test"] > 0.9
    assert summary["steps_not_finite"] == 0
    assert summary["compile"] == options.get("compile", "off" if "mixup" in options else "graph")
    assert summary["device"] == torch.cuda.get_device_name()
    assert "on the GPU" in summary["loader"]
    assert summary["precision"] == PRECISIONS.get(options.get("amp"), summary["precision"])


@pytest.mark.parametrize("options", [{}, {"progressive": 32}, {"progressive": 32, "compile": "reduce-overhead"}])
def test_training_on_crops_learns(photographs, tmp_path, options):
    assert trained(photographs, tmp_path, epochs=4, **options)["accuracy_test"] > 0.9


def test_a_split_that_does_not_fit_on_the_gpu_trains_from_the_host(small, tmp_path, monkeypatch):
    pytest.importorskip("numba", reason="host placement needs numba")
    monkeypatch.setattr("trainer_classification.loaders.registry._DEVICE_FRACTION", 0.0)
    summary = trained(small, tmp_path)
    assert summary["accuracy_test"] > 0.9
    assert "on the host" in summary["loader"]


def test_dali_trains(small, tmp_path):
    pytest.importorskip("nvidia.dali", reason="dali is not installed: pip install nvidia-dali-cuda120")
    assert trained(small, tmp_path, loader="dali")["accuracy_test"] > 0.9


STEPS = {
    "sgd": {},
    "adamw": {"optimizer": "adamw"},
    "all": {"optimizer": "sgd", "mixing": Mixing(0, 0.2, 1.0), "accumulate": 2, "clip_norm": 1.0},
    "muon": {"optimizer": "muon"},
    "parts": {"accumulate": 2, "clip_norm": 1.0},
    "weighted": {"class_weights": torch.linspace(0.2, 3.0, CLASSES)},
}


DTYPES = [None, torch.float16, torch.bfloat16]
KINDS = [Step, CudaGraphStep]


def step_of(kind, name="sgd", dtype=None, last=None):
    """A step over a network of its own, always with the same first weights."""
    options = dict(STEPS[name])
    optimizer = options.pop("optimizer", "sgd")
    if "class_weights" in options:
        options["class_weights"] = options["class_weights"].to(CUDA)
    network, recipe = "resnet-small", dataclasses.replace(RECIPES["mnist"], optimizer=optimizer, learning_rate=0.01)
    if optimizer == "muon":
        network, recipe = "speednet", SPEED_RECIPES["cifar100"]
    torch.manual_seed(0)
    model = build(network, CLASSES, 3, 32).to(CUDA)
    model = model if last is None else torch.nn.Sequential(model, last)
    normalize = Normalize([0.5] * 3, [0.3] * 3, CUDA)
    ema = ModelEma(model, 0.9)
    return kind(model, build_optimizer(model, recipe), normalize, label_smoothing=0.1, dtype=dtype, ema=ema, **options)


def batch_of(seed):
    images, labels = (torch.from_numpy(array).to(CUDA) for array in images_of(64, 32, seed))
    return Batch(images, labels, labels, 64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_never_waits_for_the_gpu(name, dtype, kind):
    if kind is CudaGraphStep and "mixing" in STEPS[name]:
        pytest.skip("mixing draws on the host, so such a step is never recorded")
    step, batch, totals = step_of(kind, name, dtype), batch_of(0), Metrics(CUDA)
    for number in range(5):  # tuning, states of the optimizer, recording
        step(batch, number, totals)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(5, 8):
            set_learning_rate(step.optimizer, 0.01)
            step(batch, number, totals)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(totals.read()[0])
    assert step.is_recorded == (kind is CudaGraphStep)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sgd", "adamw", "parts", "muon", "weighted"])
def test_a_recorded_step_does_what_the_plain_one_does(name, dtype):
    """With rates that a recording must not keep, and batches that it must read anew."""
    rates = [0.01, 0.01, 0.01, 0.01, 0.0, 0.03, 0.002, 0.01]
    found = []
    for kind in KINDS:
        step, totals, moved = step_of(kind, name, dtype), Metrics(CUDA), []
        for number, rate in enumerate(rates):
            set_learning_rate(step.optimizer, rate)
            before = torch.cat([p.detach().flatten() for p in step.model.parameters()])
            loss = step(batch_of(number), number, totals)
            after = torch.cat([p.detach().flatten() for p in step.model.parameters()])
            moved.append((float(loss), float((after - before).norm())))
        average = torch.cat([p.flatten() for p in step.ema.model.parameters()])
        found.append((moved, float(average.norm()), totals.read()[:3], step.is_recorded))
    (plain, plain_average, plain_totals, _), (recorded, average, totals, is_recorded) = found
    assert is_recorded
    for mine, theirs in zip(recorded, plain, strict=True):
        assert mine == pytest.approx(theirs, rel=0.1, abs=0.01)
    assert average == pytest.approx(plain_average, rel=0.01)
    assert totals == pytest.approx(plain_totals, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_an_overflow_skips_the_step_and_is_counted(name, kind):
    step, totals = step_of(kind, name, torch.float16), Metrics(CUDA)
    for number in range(5):
        step(batch_of(0), number, totals)
    taken = int(totals.failed_steps[1])  # the first scale may be too large
    step.scaler._scale.fill_(2.0**120)
    before = [parameter.clone() for parameter in step.model.parameters()]
    step(batch_of(1), 5, totals)
    assert all(map(torch.equal, before, step.model.parameters()))
    assert int(totals.failed_steps[1]) == taken + 1
    assert float(step.scaler._scale) == 2.0**119


class Waiting(torch.nn.Module):
    """Reads from the GPU, which cannot be recorded."""

    def forward(self, x):
        return x if float(x.detach().sum()) != 0 else -x


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_that_cannot_be_recorded_goes_on_without_and_says_so(capsys, dtype):
    step, totals = step_of(CudaGraphStep, dtype=dtype, last=Waiting()), Metrics(CUDA)
    losses = [float(step(batch_of(0), number, totals)) for number in range(12)]
    assert not step.is_recorded
    assert losses[-1] < losses[0]
    assert capsys.readouterr().err.count("could not be recorded") == 1


def test_time_in_which_the_gpu_is_busy_is_not_waiting_for_data():
    clock, matrix = StepTimer(CUDA), torch.randn(8192, 8192, device=CUDA)
    for _ in range(50):
        matrix @ matrix
    clock.record_step()
    clock.request_batch()
    clock.receive_batch()
    assert clock.waiting == 0
    torch.cuda.synchronize()
    clock.request_batch()
    clock.receive_batch()
    assert clock.waiting > 0


def test_images_of_another_size_are_recorded_anew():
    step, totals = step_of(CudaGraphStep), Metrics(CUDA)
    for side in (32, 24, 32):
        images, labels = (torch.from_numpy(array).to(CUDA) for array in images_of(64, side, 0))
        for number in range(5):
            loss = step(Batch(images, labels, labels, 64), number, totals)
        assert step.is_recorded
    assert float(loss) < 1.0


class Signal(list):
    """Empty until it was looked at so many times; then SIGTERM has come."""

    def __init__(self, looks):
        super().__init__([signal.SIGTERM])
        self.looks = looks

    def __bool__(self):
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_a_stopped_run_goes_on_with_the_same_curve(small, tmp_path, monkeypatch, amp):
    @contextmanager
    def soon():
        yield Signal(10)  # steps, of 8 an epoch

    straight = trained(small, tmp_path / "straight", amp=amp)
    with monkeypatch.context() as patch:
        patch.setattr(training, "catch_signals", soon)
        with pytest.raises(loop.Stopped):
            trained(small, tmp_path / "stopped", amp=amp)
    resumed = trained(small, tmp_path / "stopped", amp=amp, resume="auto")
    assert resumed["epochs"] == straight["epochs"] == 3
    # Convolutions on a GPU add in another order each time.
    assert resumed["loss_test"] == pytest.approx(straight["loss_test"], rel=0.2, abs=0.02)
    assert resumed["accuracy_validation"] == pytest.approx(straight["accuracy_validation"], abs=0.05)


def test_preflight_tells_the_memory_of_the_gpu(small, tmp_path, capsys):
    config = TrainConfig(model="resnet18", batch_size=64, device="cuda", output_dir=str(tmp_path))
    assert preflight(training.prepared_inputs(config, small, manifest.read(small), time.monotonic()))
    text = capsys.readouterr().err
    assert f"of {torch.cuda.mem_get_info()[1] / 1e9:.1f} GB with batches of 64" in text
    assert text.count(": yes, ") == 4


@pytest.fixture
def little_memory():
    gc.collect()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()  # what cuBLAS keeps for streams, say
    torch.cuda.set_per_process_memory_fraction((held + 1e9) / torch.cuda.mem_get_info()[1])
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


TOO_LARGE = {"model": "resnet50", "batch_size": 512, "device": "cuda", "amp": "bf16"}


def test_preflight_finds_a_batch_that_is_too_large(photographs, tmp_path, capsys, little_memory):
    config = TrainConfig(output_dir=str(tmp_path), **TOO_LARGE)
    assert not preflight(training.prepared_inputs(config, photographs, manifest.read(photographs), time.monotonic()))
    assert "try a smaller --batch-size" in capsys.readouterr().err


def test_a_batch_that_is_too_large_is_one_sentence(photographs, tmp_path, monkeypatch, little_memory):

    def train(config, started):
        return training.train_prepared(config, photographs, manifest.read(photographs), started)

    monkeypatch.setattr("trainer_classification.training.start.train", train)
    with pytest.raises(ValueError, match=r"memory .* smaller --batch-size"):
        start(TrainConfig(output_dir=str(tmp_path), processes=1, **TOO_LARGE), time.monotonic())


ONE_OF_ONE = """
import sys, time
from pathlib import Path
import torch
from trainer_classification.config import TrainConfig
from trainer_classification.data import manifest
from trainer_classification.training import distributed
from trainer_classification.training import train as training
config = TrainConfig(model="resnet-small", batch_size=64, epochs=3, learning_rate=0.05, device="cuda",
                     output_dir=sys.argv[2])
with distributed.join_processes(config, lambda world: Path(sys.argv[1])) as (world, folder):
    summary = training.run_training(
        training.prepared_inputs(config, folder, manifest.read(folder), time.monotonic(), world)
    )
    assert summary["accuracy_test"] > 0.9, summary
    total = torch.ones(3, device="cuda")
    distributed.dist.all_reduce(total)
    as_one_of_two = distributed.World(0, 2, 0, 1)
    wrapped = as_one_of_two.wrap_ddp(torch.nn.Linear(3, 2).cuda(), total.device, static=True)
    wrapped(total).sum().backward()
    assert wrapped.module.weight.grad is not None
"""


def test_a_launched_process_joins_over_nccl(small, tmp_path):
    """One process, as there may be one GPU; with DistributedDataParallel as several have it."""
    place = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    place |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", ONE_OF_ONE, str(small), str(tmp_path)]
    done = subprocess.run(command, env=os.environ | place, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


def free_port():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]
