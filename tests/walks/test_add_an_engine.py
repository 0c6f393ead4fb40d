"""Follow the walk "add an engine" with a toy: its own file, a registry entry, and the option's value in config.py."""

import dataclasses
import sys
import textwrap
from typing import Annotated, Literal, get_args

import pytest
import torch

from engines import test_contract as contract
from engines.conftest import made, png
from trainer_classification import config, loaders
from trainer_classification.config import TrainConfig
from trainer_classification.data.formats import ArrayLayout
from trainer_classification.loaders import registry
from trainer_classification.loaders.base import LoaderRequest
from trainer_classification.loaders.registry import ENGINES, EngineSpec, choose_engine, open_loader
from trainer_classification.options import Option
from trainer_classification.training.train import train_prepared

# Step 1: the engine's own file, loaders/toy.py.
TOY = '''
"""A toy engine: the reference augmentation in threads, over the array."""

from trainer_classification.augment.reference import augment
from trainer_classification.data.array import ArrayStore, open_array
from trainer_classification.loaders.ring_buffer import RingBufferLoader

BATCHES = []  # the sample ids of each batch that was made


class ToyLoader(RingBufferLoader):
    def __init__(self, request):
        self.store = open_array(request.folder, request.manifest, request.split)
        channels = request.manifest.channels
        super().__init__(
            request.schedule,
            self.store.labels,
            request.image_size,
            channels,
            device=request.device,
            threads=request.threads,
        )

    def _make(self, index, draws, out):
        BATCHES.append(index.tolist())
        rows = index.clip(0)
        images = augment(self.store.images, rows, draws, self.schedule.policy, out.shape[1], self.store.layout)
        out[:] = images


def open_toy(request):
    return ToyLoader(request)
'''

# Step 2: its entry in the registry.
SPEC = EngineSpec(
    name="toy",
    module="",
    install="",
    formats=lambda resized: ("array",),
    openers={"": "trainer_classification.loaders.toy:open_toy"},
)


# Step 3: its value of the option in config.py.
@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyConfig(TrainConfig):
    """TrainConfig as it is with the new value."""

    loader: Annotated[
        Literal["auto", "resident", "planes", "ffcv", "dali", "torch", "toy"],
        Option("Engine that delivers the batches.", "Data"),
    ] = "auto"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A prepared dataset of 20 px color images."""
    return made(tmp_path_factory.mktemp("walk"), png, 20)


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """Step 1: put the engine's file where the package finds it."""
    (tmp_path / "toy.py").write_text(textwrap.dedent(TOY))
    monkeypatch.setattr(loaders, "__path__", [*loaders.__path__, str(tmp_path)])
    yield
    sys.modules.pop("trainer_classification.loaders.toy", None)


@pytest.fixture
def entry(monkeypatch):
    """Step 2: enter the engine in the registry."""
    monkeypatch.setitem(ENGINES, "toy", SPEC)


def open_toy(request: LoaderRequest):
    """Open the toy as training does: by its name."""
    choice = choose_engine("toy", request.manifest.array_layout, 1, request.device)
    return open_loader(choice, request)


def train_one_epoch(config_class, prepared, tmp_path):
    folder, manifest = prepared
    options = {"model": "resnet-small", "epochs": 1, "batch_size": 8, "device": "cpu", "loader": "toy"}
    return train_prepared(config_class(**options, output_dir=str(tmp_path / "out")), folder, manifest, 0.0)


def test_a_new_engine_trains(own_file, entry, small, tmp_path):
    summary = train_one_epoch(ToyConfig, small, tmp_path)

    from trainer_classification.loaders import toy

    samples = {sample for batch in toy.BATCHES for sample in batch}
    assert summary["epochs"] == 1
    assert len(samples) >= 48  # an epoch is six batches of eight


@pytest.mark.parametrize(
    "question",
    [
        contract.test_training_delivers_the_planned_samples_in_the_planned_order,
        contract.test_ranks_share_each_global_batch_and_see_the_same_pixels_as_one_process,
        contract.test_resuming_at_any_step_gives_the_rest_of_the_epoch,
        contract.test_batch_size_and_threads_change_no_sample,
        contract.test_a_batch_larger_than_the_split_is_cut_to_it,
        contract.test_an_epoch_left_early_is_followed_by_a_whole_one,
        contract.test_a_missing_split_names_those_there_are,
    ],
    ids=lambda question: question.__name__.removeprefix("test_"),
)
def test_a_new_engine_answers_the_contract(question, own_file, entry, small):
    question(open_toy, small)


@pytest.mark.parametrize("policy", [contract.SHIFT, contract.ZERO, contract.STILL], ids=["reflect", "zero", "none"])
def test_a_new_engine_delivers_the_pixels_of_the_reference(policy, own_file, entry, small):
    contract.compare_with_the_array(open_toy, small, policy, 0)


@pytest.mark.parametrize("world", [1, 2])
def test_a_new_engine_evaluates_every_sample_once(world, own_file, entry, small):
    contract.test_evaluation_covers_every_sample_once_for_any_number_of_ranks(open_toy, small, world)


def test_without_its_file_an_engine_does_not_open(entry, small, tmp_path):
    with pytest.raises(ModuleNotFoundError, match=r"trainer_classification\.loaders\.toy"):
        train_one_epoch(ToyConfig, small, tmp_path)


def test_without_its_entry_an_engine_is_unknown(own_file, small, tmp_path):
    with pytest.raises((KeyError, ValueError), match="toy"):
        train_one_epoch(ToyConfig, small, tmp_path)


def test_without_its_value_the_option_refuses_an_engine(own_file, entry, small, tmp_path):
    with pytest.raises(ValueError, match="--loader is 'toy', but must be one of: auto, resident, planes, ffcv, dali"):
        train_one_epoch(TrainConfig, small, tmp_path)


def test_the_engines_of_the_package_have_taken_every_step():
    """Fails for an engine of the package that lacks its value, its entry, its file or its place in the contract."""
    values = set(get_args(config.Loader)) - {"auto"}
    assert values == ENGINES.keys()
    for name, spec in ENGINES.items():
        assert spec.name == name
        assert any(question.startswith(name) for question in contract.ENGINES), f"the contract does not ask {name}"
        for opener in spec.openers.values():
            module, function = opener.split(":")
            if registry.installed(name):
                assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_an_engine_that_is_not_installed_says_how_to_install_it(monkeypatch):
    missing = dataclasses.replace(SPEC, module="no_such_module", install="pip install toy")
    monkeypatch.setitem(ENGINES, "toy", missing)
    with pytest.raises(ValueError, match="--loader toy is not installed: pip install toy"):
        choose_engine("toy", ArrayLayout(28, False, 1), 1, torch.device("cpu"))
