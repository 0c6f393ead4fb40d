"""Archives: what the reader of Hafnia's trainer makes of ours, and that our own reader gets the weights bit for bit."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.models import resnet18
from torchvision.transforms.v2.functional import normalize

from helpers import meta_of, photograph
from trainer_classification import models
from trainer_classification.checkpoint import archive
from trainer_classification.checkpoint.foreign_stem import rewrite_stem
from trainer_classification.checkpoint.load_model import load_model
from trainer_classification.inference.predictor import Predictor
from trainer_classification.inference.preprocess import Preprocess
from trainer_classification.models.normalize import Normalize

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def read_as_hafnias_trainer(path):
    """What trainer-classification 459bafb does: by name, all that fits by shape, and ImageNet's mean and std."""
    with zipfile.ZipFile(path) as file:
        config = json.loads(file.read("model_config.json"))
        state = torch.load(io.BytesIO(file.read(config["model_weight_path"])), weights_only=True)
    if config["name"] != "resnet18":
        raise ValueError(f"Model {config['name']} not recognized.")
    network = resnet18(num_classes=len(config["task"]["classes"])).eval()
    own = network.state_dict()
    network.load_state_dict({name: tensor for name, tensor in state.items() if tensor.shape == own[name].shape}, False)
    return lambda images: network(normalize(images.permute(0, 3, 1, 2).expand(-1, 3, -1, -1) / 255, **IMAGENET))


def trained(name="resnet18", channels=3, image_size=64, **more):
    """A network with statistics and a head as if trained, and its description."""
    torch.manual_seed(0)
    network = models.build(name, 3, channels, image_size)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.weight.data.uniform_(0.3, 0.6)
    meta = meta_of(name, "abc", image_size=image_size, channels=channels, width=0, **more)
    return network.eval(), meta


def write_as_hafnias_trainer(path, network, class_names, image_size, name="resnet18"):
    """What trainer-classification 459bafb writes: a compressed zip, and the weights under a name of their own."""
    task = {"primitive": "Classification", "name": "species", "classes": [{"name": text} for text in class_names]}
    config = {"name": name, "task": task, "model_weight_path": "best.pth", "image_size": image_size}
    weights = io.BytesIO()
    torch.save(network.state_dict(), weights)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model_config.json", json.dumps(config))
        file.writestr("best.pth", weights.getvalue())
    return path


@torch.no_grad()
def both_logits(tmp_path, network, meta):
    images = torch.randint(0, 256, (16, 64, 64, meta.channels), dtype=torch.uint8)
    path = archive.write(tmp_path, None, network.state_dict(), meta, "task")
    ours = network(Normalize(meta.mean, meta.std, torch.device("cpu"))(images))
    return ours, read_as_hafnias_trainer(path)(images)


def test_their_reader_gives_our_logits_where_only_the_deviation_differs(tmp_path):
    ours, theirs = both_logits(tmp_path, *trained(mean=IMAGENET["mean"], std=[0.3, 0.31, 0.1]))
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)


def test_their_reader_gives_our_logits_of_gray_images(tmp_path):
    mean = [sum(IMAGENET["mean"]) / 3]
    ours, theirs = both_logits(tmp_path, *trained(channels=1, mean=mean, std=[0.3]))
    assert (theirs - ours).abs().max() < 0.02 * ours.std()  # at the border, three means are not one


def test_their_reader_gives_our_classes_where_the_mean_differs_within_the_bound(tmp_path):
    ours, theirs = both_logits(tmp_path, *trained(mean=[0.54, 0.5, 0.46], std=[0.3, 0.3, 0.3]))
    assert torch.equal(theirs.argmax(1), ours.argmax(1))
    assert (theirs - ours).abs().max() < 0.2 * ours.std()


@torch.no_grad()
@pytest.mark.parametrize("mean", [[0.54, 0.5, 0.46], [0.4]], ids=["color", "gray"])
def test_within_an_image_the_rewritten_stem_sees_what_ours_sees(mean):
    """Where no zeros of the border are near, the two are equal, whatever the mean."""
    network, meta = trained(channels=len(mean), mean=mean, std=[0.3] * len(mean))
    state = network.state_dict()
    rewritten, original = rewrite_stem(state, meta)
    assert all(original[name] is state[name] for name in original)
    images = torch.rand(4, len(mean), 40, 40)
    ours = F.conv2d((images - torch.tensor(mean)[:, None, None]) / 0.3, state["conv1.weight"])
    theirs = F.conv2d(normalize(images.expand(-1, 3, -1, -1), **IMAGENET), rewritten["conv1.weight"])
    ours -= state["bn1.running_mean"][:, None, None]
    theirs -= rewritten["bn1.running_mean"][:, None, None]
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", IMAGENET | {"image_size": 32}),  # its stem is 3x3: their reader would leave it random
        ("resnet18", {"mean": [0.13] * 3, "std": [0.3] * 3}),  # of digits: a border of zeros would be bright
        ("resnet18", IMAGENET | {"gray_shift": 4}),  # of 12 bits: they would be nearly black there
        ("speednet", IMAGENET),
        ("efficientnet-lite0", IMAGENET),
    ],
)
def test_their_reader_refuses_what_it_would_get_wrong_and_ours_reads_it(tmp_path, name, options):
    network, meta = trained(name, **options)
    path = archive.write(tmp_path, None, network.state_dict(), meta, "task")
    with pytest.raises(ValueError, match=f"of trainer-classification: {name} not recognized"):
        read_as_hafnias_trainer(path)
    assert "refuses" in archive.describe_readers(meta)
    assert load_model(path).name == name


def test_our_reader_gets_the_weights_bit_for_bit(tmp_path):
    network, meta = trained(mean=[0.54, 0.5, 0.46], std=[0.3, 0.3, 0.3], temperature=0.7)
    path = archive.write(tmp_path, None, network.state_dict(), meta, "task")
    model = load_model(path)
    assert all(torch.equal(tensor, model.network.state_dict()[key]) for key, tensor in network.state_dict().items())
    assert (path.name, model.temperature, archive.read(path).has_checkpoint) == ("model.zip", 0.7, False)


@torch.no_grad()
@pytest.mark.parametrize("image_size", [48, 96])
def test_our_predictor_sees_images_as_hafnias_trainer_does(tmp_path, image_size):
    """Squashed to a square, antialiased, with ImageNet's mean and std; the stem is that of large images at any size."""
    torch.manual_seed(0)
    network = resnet18(num_classes=3).eval()
    path = write_as_hafnias_trainer(tmp_path / "model.zip", network, "abc", image_size)
    model = load_model(path)
    assert (model.class_names, model.task, model.channels) == (("a", "b", "c"), "species", 3)

    photos = [Image.fromarray(photograph(seed, 150, 200)) for seed in range(4)]
    preprocess = Preprocess.of_model(model)
    batch = preprocess.make_batch([preprocess.load(photo) for photo in photos], torch.device("cpu"))
    squashed = [photo.resize((image_size, image_size), Image.Resampling.BILINEAR) for photo in photos]
    assert np.abs(batch.numpy() - np.stack(squashed).astype(int)).mean() < 2  # of 255

    theirs = network(normalize(batch.permute(0, 3, 1, 2) / 255, **IMAGENET)).numpy()
    ours = Predictor(model, "cpu", amp="off").compute_logits([preprocess.load(photo) for photo in photos])
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_an_archive_with_a_network_that_is_not_known_is_refused(tmp_path):
    path = write_as_hafnias_trainer(tmp_path / "model.zip", torch.nn.Linear(1, 1), "abc", 224, "vit_b_16")
    with pytest.raises(ValueError, match="with the network 'vit_b_16', but known are resnet18"):
        load_model(path)


def test_the_archive_that_was_picked_is_found_until_the_run_has_its_own(tmp_path):
    """Once a run has written last.pth, an archive beside it is the run's."""
    assert archive.find(tmp_path) == (None, "")
    (tmp_path / "b.zip").write_bytes(b"")
    assert archive.find(tmp_path) == (tmp_path / "b.zip", "b.zip")
    (tmp_path / "a.zip").write_bytes(b"")
    assert archive.find(tmp_path) == (tmp_path / "a.zip", "a.zip, the first of 2 in its folder")
    (tmp_path / "last.pth").write_bytes(b"")
    assert archive.find(tmp_path) == (None, "")


@pytest.mark.parametrize("member", ["weights", "stem"])
def test_an_archive_with_other_things_than_tensors_is_refused(tmp_path, member):
    """What else a pickle holds is code that would run."""
    meta = meta_of(class_names="abc")
    weights = models.build("resnet-small", 3, 1, 28, 8).state_dict()
    path = archive.write(tmp_path, None, weights, meta, "task")
    other = io.BytesIO()
    torch.save(Path("a"), other)
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    replaced = archive._WEIGHTS if member == "weights" else archive._STEM
    with zipfile.ZipFile(path, "w") as file:
        for name, data in (content | {replaced: other.getvalue()}).items():
            file.writestr(name, data)
    with pytest.raises(ValueError, match="something else than tensors"):
        archive.read(path).load_weights()
