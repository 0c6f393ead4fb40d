"""A model comes back from everything that a run leaves, and old descriptions can still be read."""

import dataclasses
import json
import re

import pytest
import torch

from helpers import meta_of
from trainer_classification.checkpoint import archive
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.checkpoint.load_model import load_model
from trainer_classification.checkpoint.meta import CheckpointMeta
from trainer_classification.config import TrainConfig
from trainer_classification.models import build
from trainer_classification.training.start_checkpoint import choose_start

META = meta_of(class_names="abc", epoch=2)
WEIGHTS = build("resnet-small", 3, 3, 28, 8).state_dict()


def run_folder(tmp_path):
    (tmp_path / "model").mkdir()
    checkpoint.save(tmp_path / "model/model.pth", {"model": WEIGHTS}, META)
    return tmp_path


def model_file(tmp_path):
    return run_folder(tmp_path) / "model/model.pth"


def checkpoint_with_average(tmp_path):
    other = {name: torch.zeros_like(tensor) for name, tensor in WEIGHTS.items()}
    checkpoint.save(tmp_path / "last.pth", {"model": other, "average": WEIGHTS}, META)
    return tmp_path / "last.pth"


def platform_archive(tmp_path):
    return archive.write(tmp_path, model_file(tmp_path), WEIGHTS, META, "task")


@pytest.mark.parametrize("leave", [run_folder, model_file, checkpoint_with_average, platform_archive])
def test_a_model_loads_from_whatever_a_run_leaves(tmp_path, leave):
    path = leave(tmp_path)
    model = load_model(path)
    assert all(torch.equal(tensor, WEIGHTS[name]) for name, tensor in model.network.state_dict().items())
    assert not model.network.training
    assert (model.name, model.class_names, model.image_size) == ("resnet-small", ("a", "b", "c"), 28)
    assert (model.channels, model.mean, model.std) == (3, (0.5,) * 3, (0.25,) * 3)
    assert model.source.is_file()


def test_what_holds_no_model_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"holds no model; it may be model\.pth"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="There is no model"):
        load_model(tmp_path / "none.pth")
    checkpoint.save(tmp_path / "model.pth", {"model": WEIGHTS}, meta_of("resnet18", "abc"))
    with pytest.raises(ValueError, match="do not fit a resnet18"):
        load_model(tmp_path)


# As a run wrote it before descriptions had a type.
FORMAT_1 = """{"format_version": 1, "config": {"project_name": "p"}, "recipe": {"model": "resnet-small", "width": 16,
"image_size": 28, "epochs": 3, "batch_size": 16, "optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9,
"weight_decay": 0.0005, "schedule": "triangular", "warmup_fraction": 0.2, "label_smoothing": 0.1, "ema": 0.0,
"minimum_steps": 0, "clip_norm": 0.0, "mixup": 0.0, "cutmix": 0.0, "progressive": 0, "policy": {"crop": "shift",
"shift": 3, "pad": "reflect", "area": [0.08, 1.0], "aspect": [0.75, 1.3333333333333333], "flip": "none", "cutout": 0,
"fill": 114}}, "dataset": "tiny", "class_names": ["a", "b"], "channels": 1, "image_size": 28, "mean": [0.5],
"std": [0.2], "manifest_fingerprint": "f00", "finished": false, "state": {"epoch": 1, "step": 2, "before": 5,
"epochs": 7, "limit": 4, "spent": 1.5, "times": [0.1, 0.2, 0.3, 0.4], "best": 0.75, "finished": false,
"seconds_training": 0.5, "seconds_waiting": 0.1, "images": 112, "seconds_first_step": 0.3,
"seconds_in_first_step": 0.2, "history": [{"epoch": 1}]}}"""


def test_descriptions_of_format_1_are_read_and_written_as_they_were():
    content = json.loads(FORMAT_1)
    meta = CheckpointMeta.from_json(content)
    assert (meta.network, meta.recipe.policy.shift, meta.recipe.policy.area) == ("resnet-small", 3, (0.08, 1.0))
    progress = meta.progress
    assert (progress.steps_done, progress.step_limit, progress.best_score, progress.seconds_spent) == (7, 4, 0.75, 1.5)
    assert meta.has_budget
    unknown = {"task": "", "array_size": 0, "resized": None, "temperature": None, "gray_shift": 8}
    unknown["cpu_precision"] = ""
    unknown["cpu_threads"] = 0
    later = {"eval_crop": 0.0, "freeze": "none", "unfreeze_after": 0, "backbone_rate": 1.0, "class_weights": "none"}
    later["stem_epochs"] = 0
    policy = content["recipe"]["policy"] | {"color_jitter": 0.0, "erasing": 0.0, "rand_augment": 0.0}
    written = content | unknown | {"recipe": content["recipe"] | later | {"policy": policy}}
    assert json.loads(json.dumps(meta.to_json())) == written


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format_version": 2}, "format version 2, this program reads 1"), ({"recipe": None}, "lacks")],
)
def test_a_description_that_cannot_be_read_says_why(change, message):
    with pytest.raises(ValueError, match=message):
        CheckpointMeta.from_json(json.loads(FORMAT_1) | change)


def difference_to(dataset="cifar", class_names="abc", fingerprint="f", recipe=META.recipe, **options):
    meta = dataclasses.replace(META, config=META.config | {"seed": 0})
    return meta.find_difference(dataset, list(class_names), fingerprint, recipe, TrainConfig(**options))


def test_what_differs_is_named_with_both_values():
    assert difference_to() == ""
    assert difference_to("mnist", "xy", "g") == "its dataset differs (cifar / mnist)"
    assert "class_names" in difference_to(class_names="abx")
    assert re.search(r"is cifar, too, .*\(manifest_fingerprint f / g\)", difference_to(fingerprint="g"))
    other = meta_of(class_names="abc", image_size=32).recipe
    assert difference_to(recipe=other) == "its recipe differs (image_size 28 / 32)"
    assert difference_to(seed=1) == "its seed differs (0 / 1)"
    assert difference_to(best_by="loss") == "", "a checkpoint from before the option existed goes on"


def test_weights_without_the_state_of_the_optimizer_are_not_resumed(tmp_path):
    path = model_file(tmp_path)
    with pytest.raises(ValueError, match=rf"weights only.*last\.pth.*--weights {path}"):
        choose_start(TrainConfig(resume=str(path)))


@pytest.mark.parametrize("name", ["resnet-small", "resnet18", "speednet", "efficientnet-lite0"])
def test_loading_draws_no_random_weights_and_gives_those_of_the_file(tmp_path, name):
    """Drawing them takes longer than classifying a photo, and would move the caller's random numbers."""
    meta = meta_of(name, "ab", image_size=64, width=8 if name == "resnet-small" else 0)
    network = build(name, 2, 3, 64, meta.recipe.width)
    checkpoint.save(tmp_path / "model.pth", {"model": network.state_dict()}, meta)
    state = torch.get_rng_state()
    found = load_model(tmp_path).network
    assert torch.equal(torch.get_rng_state(), state)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(found(images), network.eval()(images))


@pytest.mark.parametrize(
    ("crop", "said", "resized", "side"),
    [
        ("resized", {}, True, 35),
        ("shift", {}, False, 28),
        ("shift", {"resized": True}, True, 35),
        ("resized", {"resized": False}, False, 28),
        ("resized", {"resized": True, "array_size": 40}, True, 40),
    ],
)
def test_how_images_were_prepared_is_said_or_follows_from_the_recipe(tmp_path, crop, said, resized, side):
    """Version 0.1 said neither whether images were resized nor to which size."""
    meta = meta_of(class_names="abc", **said)
    policy = dataclasses.replace(meta.recipe.policy, crop=crop)
    meta = dataclasses.replace(meta, recipe=dataclasses.replace(meta.recipe, policy=policy))
    checkpoint.save(tmp_path / "model.pth", {"model": WEIGHTS}, meta)
    model = load_model(tmp_path / "model.pth")
    assert (model.resized, model.array_size) == (resized, side)
