"""A CPU takes bf16 where it is measured to be faster, keeps what it chose, and sums in fp32."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from helpers import meta_of, noise
from trainer_classification import device as devices
from trainer_classification import faster_precision
from trainer_classification.augment.mixup import Mixing
from trainer_classification.checkpoint.load_model import Model
from trainer_classification.checkpoint.meta import CheckpointMeta
from trainer_classification.config import TrainConfig
from trainer_classification.device import choose_precision, cpu_model, has_bf16_cpu
from trainer_classification.faster_precision import choose_faster, choose_for_inference
from trainer_classification.inference import split_logits
from trainer_classification.inference.evaluated_dataset import DataOptions
from trainer_classification.inference.predictor import Predictor
from trainer_classification.loaders.base import Batch
from trainer_classification.loaders.collect_logits import collect_logits
from trainer_classification.models.normalize import Normalize
from trainer_classification.plan import Policy
from trainer_classification.recipes import Recipe
from trainer_classification.training import cpu_precision
from trainer_classification.training.cpu_precision import complete_precision
from trainer_classification.training.distributed import World
from trainer_classification.training.metrics import Metrics
from trainer_classification.training.resolve import Resolved
from trainer_classification.training.start_checkpoint import StartCheckpoint
from trainer_classification.training.step import Step
from trainer_classification.training.tta import logits_over

CPU = torch.device("cpu")
BF16 = torch.bfloat16
THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True)
def cpu(tmp_path, monkeypatch):
    """A CPU whose description can be set, and a cache of its own."""
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(devices, "_CPU_INFO", path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def describe(flags="fma avx2 avx512_bf16", name="Some CPU @ 2 GHz"):
        path.write_text(f"processor\t: 0\nmodel name\t: {name}\nflags\t\t: {flags}\n\nprocessor\t: 1\n")

    describe()
    return describe


@pytest.mark.parametrize(("flags", "expected"), [("avx512_bf16", True), ("fma amx_bf16", True), ("avx512f", False)])
def test_the_flags_say_whether_bf16_is_worth_a_try(cpu, flags, expected):
    cpu(flags)
    assert has_bf16_cpu() is expected
    assert cpu_model() == "Some CPU @ 2 GHz"


def test_a_system_that_does_not_describe_its_cpu_trains_in_fp32(tmp_path):
    (tmp_path / "cpuinfo").unlink()
    assert not has_bf16_cpu()
    assert cpu_model() == "unknown"
    assert choose_precision(CPU, "auto") == (None, "fp32: this CPU has no instructions for bf16")


@pytest.mark.parametrize(
    ("amp", "dtype", "reason"),
    [
        ("bf16", BF16, "bf16: --amp bf16"),
        ("fp16", None, "fp32: --amp fp16 is for GPUs"),
        ("off", None, "fp32: --amp off"),
        ("auto", None, "fp32, unless bf16 is faster"),
    ],
)
def test_the_option_does_what_it_says(amp, dtype, reason):
    assert choose_precision(CPU, amp) == (dtype, reason)


class Measurement:
    """Stands for the timing of both precisions."""

    def __init__(self, monkeypatch, ratio):
        self.ratio = ratio
        self.calls = 0
        monkeypatch.setattr(faster_precision, "_measure_ratio", self)

    def __call__(self, _):
        self.calls += 1
        return self.ratio


@pytest.mark.parametrize(("ratio", "dtype"), [(1.68, BF16), (1.11, BF16), (1.1, None), (0.08, None)])
def test_the_faster_precision_is_taken_and_the_ratio_said(monkeypatch, ratio, dtype):
    Measurement(monkeypatch, ratio)
    chosen, reason = choose_faster("resnet", None)
    assert chosen is dtype
    assert f"{ratio:.2f} times as fast" in reason


def test_a_network_is_measured_once_on_a_machine(monkeypatch, tmp_path, cpu):
    measurement = Measurement(monkeypatch, 1.5)
    assert choose_faster("resnet", None) == choose_faster("resnet", None)
    assert measurement.calls == 1
    choose_faster("speednet", None)
    cpu(name="Another CPU")
    choose_faster("resnet", None)
    monkeypatch.setattr(torch, "__version__", "9.9")
    choose_faster("resnet", None)
    assert measurement.calls == 4
    (file,) = (tmp_path / "cache").rglob("*.json")
    assert len(json.loads(file.read_text())) == 4


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": '])
def test_a_damaged_file_is_measured_anew(monkeypatch, tmp_path, content):
    measurement = Measurement(monkeypatch, 1.5)
    choose_faster("resnet", None)
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_text(content)
    assert choose_faster("resnet", None)[0] is BF16
    assert measurement.calls == 2


def test_where_nothing_can_be_kept_it_is_measured_each_time(monkeypatch, tmp_path):
    measurement = Measurement(monkeypatch, 1.5)
    (tmp_path / "cache").write_text("no folder")
    assert choose_faster("resnet", None)[0] is BF16
    assert choose_faster("resnet", None)[0] is BF16
    assert measurement.calls == 2


def test_the_ratio_is_that_of_the_shortest_times_after_the_first(monkeypatch):
    """The first call of each precision allocates; others may be disturbed."""
    times = {None: iter([90.0, 3.0, 7.0, 5.0]), BF16: iter([80.0, 1.5, 2.0, 9.0])}
    now = [0.0]
    order = []

    def run(dtype):
        order.append(dtype)
        now[0] += next(times[dtype])

    monkeypatch.setattr(faster_precision.time, "perf_counter", lambda: now[0])
    assert faster_precision._measure_ratio(run) == 2.0
    assert order == [None, BF16] * 4


def recipe_of(network="resnet-small", optimizer="sgd"):
    return Recipe(
        model=network,
        width=16,
        image_size=28,
        epochs=1,
        batch_size=16,
        learning_rate=0.1,
        policy=Policy(),
        optimizer=optimizer,
    )


MANIFEST = SimpleNamespace(class_names=["a", "b", "c"], channels=3, mean=[0.5] * 3, std=[0.25] * 3)


@pytest.mark.parametrize(("network", "optimizer"), [("resnet-small", "sgd"), ("speednet", "muon")])
def test_what_is_measured_is_a_step_that_changes_no_weight_and_draws_nothing(network, optimizer):
    state = torch.get_rng_state()
    built = cpu_precision._build_steps(recipe_of(network, optimizer), MANIFEST)
    assert torch.equal(torch.get_rng_state(), state)
    model = built[0][None].model
    filters = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    before = [parameter.detach().clone() for parameter in filters]
    for dtype in (None, BF16):
        cpu_precision._run_step(built, dtype)
    assert all(torch.equal(*pair) for pair in zip(filters, before, strict=True))
    assert len(built[1].images) == 16


def resolved_for(start=None, freezes=False):
    return Resolved(
        device=CPU,
        device_reason="",
        dtype=None,
        dtype_reason="fp32, unless bf16 is faster",
        recipe_kind="standard",
        freezes=freezes,
        network="auto",
        engine=None,
        formats=(),
        start=start or StartCheckpoint("new", ""),
    )


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.setattr(cpu_precision, "complete_recipe", lambda *_: (recipe_of(), ""))


def complete(amp="auto", world=None, **options):
    return complete_precision(TrainConfig(amp=amp), resolved_for(**options), MANIFEST, world or World())


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize(("ratio", "dtype"), [(3.1, BF16), (0.8, None)])
def test_a_training_takes_the_faster_one_and_says_so(monkeypatch, capsys, ratio, dtype):
    Measurement(monkeypatch, ratio)
    found = complete()
    assert found.dtype is dtype
    assert f"Precision: {found.dtype_reason}." in capsys.readouterr().err
    assert f"{ratio:.2f} times" in found.dtype_reason


@pytest.mark.usefixtures("recipe")
def test_nothing_is_measured_where_there_is_nothing_to_choose(monkeypatch, cpu, capsys):
    measurement = Measurement(monkeypatch, 3.1)
    for amp in ("off", "bf16", "fp16"):
        assert complete(amp).dtype is None  # as it was resolved
    cpu("avx2")
    assert complete().dtype is None
    assert measurement.calls == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("ratio", "dtype"), [(3.1, BF16), (0.8, None)])
def test_of_a_frozen_backbone_a_forward_pass_is_measured(monkeypatch, capsys, tmp_path, ratio, dtype):
    """Its checkpoint says so: the features of a run that says fp32 cannot be repeated if they were in bf16."""
    frozen = dataclasses.replace(recipe_of(), freeze="backbone")
    monkeypatch.setattr(cpu_precision, "complete_recipe", lambda *_: (frozen, ""))
    state = torch.get_rng_state()
    ran = []
    monkeypatch.setattr(faster_precision, "_measure_ratio", lambda run: ran.append(run(BF16)) or ratio)
    assert complete(freezes=True).dtype is dtype
    assert len(ran) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert f"{ratio:.2f} times as fast" in capsys.readouterr().err
    (file,) = (tmp_path / "cache").rglob("*.json")
    assert "folded resnet-small without head, [16, 3, 28, 28]" in file.read_text()


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize(("kept", "dtype"), [("bfloat16", BF16), ("float32", None)])
def test_a_run_that_goes_on_keeps_its_precision(monkeypatch, kept, dtype):
    measurement = Measurement(monkeypatch, 0.1 if dtype else 9.0)
    start = StartCheckpoint("resume", "", meta=meta_of(cpu_precision=kept))
    assert complete(start=start).dtype is dtype
    assert measurement.calls == 0


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize("kind", ["resume", "archive", "weights"])
def test_what_is_not_gone_on_with_says_nothing_about_the_precision(monkeypatch, kind):
    Measurement(monkeypatch, 0.1)
    meta = meta_of(cpu_precision="" if kind == "resume" else "bfloat16")
    meta.progress.finished = True
    assert complete(start=StartCheckpoint(kind, "", meta=meta)).dtype is None


@pytest.mark.usefixtures("recipe")
def test_rank_0_chooses_for_all(monkeypatch):
    class OtherRank(World):
        def broadcast_object(self, make):
            return BF16, "bf16: rank 0 said so"

    measurement = Measurement(monkeypatch, 0.1)
    found = complete(world=OtherRank(rank=1, size=2))
    assert (found.dtype, measurement.calls) == (BF16, 0)


def test_a_checkpoint_tells_its_precision_and_older_ones_do_not():
    meta = meta_of(cpu_precision="bfloat16")
    content = json.loads(json.dumps(meta.to_json()))
    assert CheckpointMeta.from_json(content).cpu_precision == "bfloat16"
    del content["cpu_precision"]
    assert CheckpointMeta.from_json(content).cpu_precision == ""


class Constant(nn.Module):
    """Logits in bf16, as a network has them under autocast."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 7))

    def forward(self, images):
        return (images.mean((1, 2, 3))[:, None] * 9 + self.weight[: len(images)]).to(BF16)


@pytest.mark.parametrize("mixing", [Mixing(0), Mixing(0, mixup=1.0)])
def test_the_loss_is_computed_in_fp32(mixing):
    torch.manual_seed(0)
    model = Constant()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    step = Step(model, optimizer, Normalize([0.5], [0.2], CPU), dtype=BF16, mixing=mixing)
    images = torch.randint(256, (4, 8, 8, 1), dtype=torch.uint8)
    labels = torch.tensor([0, 3, 5, 6])
    loss = step(Batch(images, labels, torch.arange(4), 4), 0, Metrics(CPU))
    assert loss.dtype == torch.float32
    mixed, targets = mixing(step.normalize(images), labels, 0)
    assert loss == targets.loss(model(mixed).float(), 0.0)


def test_views_are_averaged_in_fp32():
    class Edge(nn.Module):
        def forward(self, images):
            return images[:, 0, 0, :1].to(BF16)

    images = torch.zeros(1, 1, 2, 2)
    images[..., 0], images[..., 1] = 1.0, 1.0078125  # neighbors in bf16: their mean is none
    assert logits_over(Edge(), images, "flip").item() == 1.00390625
    assert logits_over(Edge(), images, "none").dtype == torch.float32


class Recording(nn.Module):
    """A convolution that notes its precision and torch's threads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(1, 3, 3)
        self.seen = []

    def forward(self, images):
        outputs = self.convolution(images)
        self.seen.append((outputs.dtype, torch.get_num_threads()))
        return outputs.mean((2, 3))


def model_with(network):
    return Model(network, "resnet-small", ("a", "b", "c"), 8, 1, (0.5,), (0.2,), "tiny", Path("model.pth"), False, 8)


@pytest.mark.parametrize(("ratio", "dtype"), [(3.0, BF16), (0.5, torch.float32)])
def test_predictions_are_computed_in_the_faster_precision_and_given_in_fp32(monkeypatch, ratio, dtype):
    Measurement(monkeypatch, ratio)
    network = Recording()
    image = noise(1, 8, 8)
    (exact,) = Predictor(model_with(network), "cpu", amp="off").predict([image], top_k=3)
    (found,) = Predictor(model_with(network), "cpu").predict([image], top_k=3)
    assert [seen[0] for seen in network.seen] == [torch.float32, dtype]
    assert found.classes == exact.classes
    assert np.allclose(found.confidences, exact.confidences, atol=5e-3)
    assert (found.confidences == exact.confidences) == (dtype == torch.float32)
    assert abs(sum(found.confidences) - 1) < 1e-6  # a softmax in bf16 is a hundredth off


def test_a_split_is_evaluated_in_the_precision_that_is_asked_for():
    network = Recording()
    images = torch.from_numpy(noise(2, 6, 64)).reshape(6, 8, 8, 1)
    batches = [Batch(images, torch.arange(6), torch.tensor([4, 0, 1, 2, 3, 5]), 6)]
    loader = SimpleNamespace(epoch=lambda _: batches)
    normalize = Normalize([0.5], [0.2], CPU)
    exact, _ = collect_logits(network, loader, normalize)
    found, labels = collect_logits(network, loader, normalize, BF16)
    assert [seen[0] for seen in network.seen] == [torch.float32, BF16]
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 0.02
    assert labels.tolist() == [1, 2, 3, 4, 0, 5]


@pytest.mark.parametrize(
    ("trained_in", "amp", "flags", "dtype"),
    [
        ("bfloat16", "auto", "amx_bf16", BF16),
        ("bfloat16", "auto", "", None),
        ("bfloat16", "off", "amx_bf16", None),
        ("float32", "auto", "amx_bf16", None),
        ("", "auto", "amx_bf16", BF16),
    ],
)
def test_a_split_is_evaluated_in_the_precision_of_the_training(cpu, monkeypatch, trained_in, amp, flags, dtype):
    cpu(flags)
    Measurement(monkeypatch, 2.0)
    network = Recording()
    model = dataclasses.replace(model_with(network), cpu_precision=trained_in)
    assert split_logits._choose_precision(model, network, DataOptions("mnist", amp=amp), CPU) == dtype


def test_a_batch_is_timed_by_as_many_threads_as_will_run_it():
    network = Recording()
    choose_for_inference(CPU, "auto", network, (4, 1, 8, 8), "resnet", threads=1)
    assert {threads for _, threads in network.seen} == {1}
    assert {dtype for dtype, _ in network.seen} == {torch.float32, BF16}
    assert torch.get_num_threads() == THREADS


@pytest.mark.parametrize(("ratio", "dtype"), [(2.0, BF16), (0.5, None)])
def test_each_precision_is_timed_in_itself_and_bf16_is_said(monkeypatch, capsys, ratio, dtype):
    network = Recording()

    def measure(run):
        for precision in (None, BF16):
            run(precision)
        return ratio

    monkeypatch.setattr(faster_precision, "_measure_ratio", measure)
    assert choose_for_inference(CPU, "auto", network, (4, 1, 8, 8), "resnet", THREADS) is dtype
    assert [seen for seen, _ in network.seen] == [torch.float32, BF16]
    assert ("Precision: bf16: 2.00 times as fast" in capsys.readouterr().err) == (dtype is BF16)


@pytest.mark.parametrize(("dtype", "name"), [(None, "float32"), (BF16, "bfloat16"), (torch.float16, "float16")])
def test_a_precision_has_the_name_of_its_dtype(dtype, name):
    assert faster_precision.name_precision(dtype) == name


@pytest.mark.parametrize(
    ("device", "amp", "flags"), [("cuda", "auto", "amx_bf16"), ("cpu", "off", "amx_bf16"), ("cpu", "auto", "")]
)
def test_nothing_is_timed_where_fp32_is_the_only_choice(cpu, device, amp, flags):
    cpu(flags)
    assert choose_for_inference(torch.device(device), amp, None, (4, 1, 8, 8), "resnet", 1) is None
