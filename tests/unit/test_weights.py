"""--weights: every kind of file, a new head for other classes, and clear words where nothing fits."""

import dataclasses
import io
import json
import tarfile
import urllib.error
import zipfile
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import torch

from helpers import meta_of
from trainer_classification.checkpoint import archive, weights
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.checkpoint.meta import CheckpointMeta, Progress
from trainer_classification.checkpoint.weights import load_imagenet, load_weights, read
from trainer_classification.config import TrainConfig
from trainer_classification.models import build
from trainer_classification.training.start_checkpoint import choose_start


def trained(classes=3):
    """A network whose weights all differ from those of a fresh one."""
    model = build("resnet-small", classes, 3, 28, 8)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.full_like(tensor, 7))
    return model


def fresh(classes=3):
    torch.manual_seed(1)
    return build("resnet-small", classes, 3, 28, 8)


def our_checkpoint(path, class_names, **more):
    tensors = {"model": trained(len(class_names)).state_dict()} | more
    checkpoint.save(path, tensors, meta_of(class_names=class_names))
    return path


def in_zip(path):
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as file:
        file.write(path, "weights.pth")
        file.writestr("README.md", "not weights")
    return path.with_suffix(".zip")


def in_platform_archive(path):
    """As a run in the cloud writes it: beside the weights it holds the checkpoint to go on from."""
    state, meta = checkpoint.load(path)
    return archive.write(path.parent, path, state["model"], meta, "task")


def in_tar(path):
    with tarfile.open(path.with_suffix(".tar.gz"), "w:gz") as file:
        file.add(path, "model/model.pth")
    return path.with_suffix(".tar.gz")


@pytest.mark.parametrize("wrap", [lambda path: path, in_zip, in_platform_archive, in_tar, lambda path: path.parent])
def test_a_model_of_ours_loads_from_a_file_zip_tar_or_folder(tmp_path, wrap):
    model = fresh()
    line = load_weights(
        model, str(wrap(our_checkpoint(tmp_path / "model.pth", ["a", "b", "c"]))), "resnet-small", "abc"
    )
    assert all((tensor == 7).all() for tensor in model.state_dict().values())
    assert "new: none; not used: none" in line
    assert "resnet-small, trained on cifar" in line


@pytest.mark.parametrize("place", ["model/model.pth", "checkpoints/best.pth"])
def test_the_folder_of_a_run_can_be_named(tmp_path, place):
    (tmp_path / place).parent.mkdir()
    our_checkpoint(tmp_path / place, ["a", "b", "c"])
    assert choose_start(TrainConfig(weights=str(tmp_path))).network == "resnet-small"
    assert read(tmp_path).class_names == ["a", "b", "c"]
    (tmp_path / place).unlink()
    with pytest.raises(ValueError, match=f"{tmp_path} holds no model"):
        read(tmp_path)


def test_weights_bring_their_network_and_wrong_ones_are_found_at_the_start(tmp_path):
    path = our_checkpoint(tmp_path / "model.pth", ["a", "b", "c"])
    assert choose_start(TrainConfig(weights=str(path))).network == "resnet-small"
    torch.save(trained().state_dict(), tmp_path / "bare.pth")
    assert choose_start(TrainConfig(weights=str(tmp_path / "bare.pth"))).network == "auto"
    with pytest.raises(ValueError, match="There are no weights"):
        choose_start(TrainConfig(weights=str(tmp_path / "none.pth")))


def test_the_head_of_the_platforms_archive_begins_anew_for_other_classes_though_as_many(tmp_path):
    path = in_platform_archive(our_checkpoint(tmp_path / "model.pth", ["a", "b", "c"]))
    assert "new: fc.weight, fc.bias" in load_weights(fresh(), str(path), "resnet-small", ["x", "y", "z"])


@pytest.mark.parametrize(
    "content",
    [
        lambda tensors: tensors,
        lambda tensors: {"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}},
        lambda tensors: {"model": {f"module._orig_mod.{name}": tensor for name, tensor in tensors.items()}, "epoch": 3},
    ],
)
def test_state_dicts_of_others_load_however_wrapped(tmp_path, content):
    torch.save(content(trained().state_dict()), tmp_path / "w.pt")
    model = fresh()
    load_weights(model, str(tmp_path / "w.pt"), "resnet-small", ["a", "b", "c"])
    assert (model.fc.weight == 7).all()


@pytest.mark.parametrize("theirs", [["a", "b", "x"], ["a", "b", "c", "d"]])
def test_a_head_of_other_classes_stays_new_and_is_said_to(tmp_path, theirs):
    model = fresh()
    line = load_weights(model, str(our_checkpoint(tmp_path / "w.pth", theirs)), "resnet-small", ["a", "b", "c"])
    assert torch.equal(model.fc.weight, fresh().fc.weight)
    assert (model.layer1[0].conv1.weight == 7).all()
    assert "new: fc.weight, fc.bias; not used: fc.weight, fc.bias" in line


def test_half_of_the_tensors_have_to_fit(tmp_path):
    state = trained().state_dict()
    body = [name for name in state if not name.startswith("fc.")]
    half = -(-len(body) // 2)
    for count in (half, half - 1):
        torch.save({name: state[name] for name in body[:count]}, tmp_path / "w.pth")
        model = fresh()
        with pytest.raises(ValueError, match="another network") if count < half else nullcontext():
            load_weights(model, str(tmp_path / "w.pth"), "resnet-small", ["a", "b", "c"])


def test_of_several_files_in_an_archive_model_pth_is_meant(tmp_path):
    our_checkpoint(tmp_path / "model.pth", ["a", "b", "c"])
    torch.save({"w": torch.zeros(1)}, tmp_path / "other.pth")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        for name in ("other.pth", "model.pth"):
            file.write(tmp_path / name, f"run/{name}")
    assert "fc.weight" in read(tmp_path / "all.zip").tensors


def test_an_archive_is_large_by_what_it_would_become_of_its_own_size(tmp_path, monkeypatch):
    """Weights are hardly smaller when they are packed; zeros are, a thousandfold."""
    monkeypatch.setattr(weights, "_UNSUSPICIOUS", 0)
    torch.save(fresh().state_dict(), tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.write(tmp_path / "w.pth", "w.pth")
    assert read(tmp_path / "w.zip").tensors


def test_the_average_of_a_checkpoint_is_preferred(tmp_path):
    average = {name: torch.full_like(tensor, 9) for name, tensor in trained().state_dict().items()}
    path = our_checkpoint(tmp_path / "last.pth", ["a", "b", "c"], average=average)
    assert all((tensor == 9).all() for tensor in read(path).tensors.values())


def test_weights_of_another_network_are_refused_with_names(tmp_path):
    torch.save(build("resnet18", 3, 3, 32).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="of another network than speednet: 0 of its 122 tensors fit"):
        load_weights(build("speednet", 3, 3, 32), str(tmp_path / "w.pth"), "speednet", ["a", "b", "c"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged or holds no weights"),
        (b"no weights", "damaged or holds no weights"),
        ([1, 2], "holds a list"),
        ({"epoch": 3}, "no tensors by name, but: epoch"),
    ],
)
def test_what_is_no_weights_is_said_to_be_none(tmp_path, content, message):
    path = tmp_path / "w.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        read(path)


def test_an_archive_of_several_files_and_a_missing_one_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("one.pth", b"")
        archive.writestr("two.pt", b"")
    with pytest.raises(ValueError, match=r"holds 2 files of weights \(one.pth, two.pt\)"):
        read(tmp_path / "w.zip")
    with pytest.raises(ValueError, match="There are no weights"):
        read(tmp_path / "none.pth")


def test_imagenet_without_a_network_gives_the_address(monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ValueError, match=r"cannot download https://.*resnet18.*no route"):
        load_imagenet("resnet18")
    with pytest.raises(ValueError, match="there are none for resnet-small"):
        load_imagenet("resnet-small")


def test_imagenet_weights_are_torchvisions_and_leave_the_head_new(monkeypatch):
    import torchvision

    theirs = torchvision.models.resnet18()
    state = theirs.state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)
    model = build("resnet18", 5, 3, 128)
    line = load_weights(model, "imagenet", "resnet18", list("abcde"))
    assert torch.equal(model.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
    assert "new: fc.weight, fc.bias" in line


def test_weights_that_are_not_finite_are_refused_by_the_name_of_the_first(tmp_path):
    state = trained().state_dict()
    names = [name for name, tensor in state.items() if tensor.is_floating_point()]
    for name in names[3:5]:
        state[name].view(-1)[-1] = float("nan")
    torch.save(state, tmp_path / "w.pth")
    model = fresh()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf"w\.pth is damaged: its tensor {names[3]} has values that are not finite"):
        load_weights(model, str(tmp_path / "w.pth"), "resnet-small", ["a", "b", "c"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_folder_in_a_tar_is_no_file_of_weights(tmp_path):
    (tmp_path / "folder.pth").mkdir()
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.add(tmp_path / "folder.pth", "folder.pth")
    with pytest.raises(ValueError, match=r"a\.tar holds 0 files of weights"):
        read(tmp_path / "a.tar")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_small_archive_that_becomes_huge_is_refused_before_it_is_unpacked(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    zeros = bytes(65 << 20)
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("w.pth", zeros)
    else:
        info = tarfile.TarInfo("w.pth")
        info.size = len(zeros)
        with tarfile.open(path, "w:gz", compresslevel=1) as file:
            file.addfile(info, io.BytesIO(zeros))
    with pytest.raises(ValueError, match=rf"a\.{kind} holds a file that would become 68 MB, which no weights do"):
        read(path)


@pytest.mark.parametrize("cut", [0, 1, 100, 1000, -1000, -100, -1])
def test_a_file_cut_anywhere_is_one_sentence_with_its_name(tmp_path, cut):
    path = our_checkpoint(tmp_path / "w.pth", ["a", "b", "c"])
    path.write_bytes(path.read_bytes()[:cut])
    for load in (read, checkpoint.load):
        with pytest.raises(ValueError, match=r"w\.pth (is damaged|holds)"):
            load(path)


def test_what_is_no_tensor_is_refused_without_advice_to_run_it(tmp_path):
    """torch's own message tells how to load the file all the same, with whatever code is in it."""
    path = tmp_path / "w.pth"
    for content in (Path("a"), b"no weights"):
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        for load in (read, checkpoint.load):
            with pytest.raises(
                ValueError, match=r"w\.pth is damaged or .*: it holds something else than tensors"
            ) as caught:
                load(path)
            assert "weights_only" not in str(caught.value)
            assert "\n" not in str(caught.value)


def description_with(**values):
    return json.loads(json.dumps(meta_of(class_names=["a", "b", "c"]).to_json())) | values


@pytest.mark.parametrize(("name", "bad"), [("image_size", 0), ("image_size", 65_537), ("channels", 2)])
def test_a_size_or_number_of_channels_that_no_image_has_is_refused(name, bad):
    with pytest.raises(ValueError, match=f"its {name} is '{bad}'"):
        CheckpointMeta.from_json(description_with(**{name: bad}))


@pytest.mark.parametrize("side", [1, 65_536])
def test_the_smallest_and_the_largest_image_are_accepted(side):
    assert CheckpointMeta.from_json(description_with(image_size=side)).image_size == side


def test_what_older_descriptions_lack_is_what_it_was_then():
    content = description_with()
    for name in ("gray_shift", "cpu_precision", "cpu_threads"):
        content.pop(name, None)
    found = CheckpointMeta.from_json(content)
    assert (found.gray_shift, found.cpu_precision, found.cpu_threads) == (8, "", 0)
    assert CheckpointMeta.gray_shift == 8  # where a field is not given
    new = dataclasses.asdict(Progress())
    assert new.pop("best_score") == -1
    assert not any(new.values())


ODD = [None, "x", [], {}, -1, 1e999, [None], True]


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize("place", ["", "state"])
def test_an_odd_value_in_a_description_is_refused_or_harmless(tmp_path, odd, place):
    description = meta_of(class_names=["a", "b", "c"]).to_json()
    fields = description[place] if place else description
    for name in list(fields):
        content = json.loads(json.dumps(description))
        (content[place] if place else content)[name] = odd
        torch.save({"meta": json.dumps(content), "state": {"model": {}}}, tmp_path / "w.pth")
        with suppress(ValueError):
            meta = checkpoint.load_meta(tmp_path / "w.pth")
            assert meta.find_difference("other", ["a"], "f", meta.recipe, TrainConfig())
            assert isinstance(meta.project_name, str)


@pytest.mark.parametrize("content", ["null", "[]", '"x"', "3", "{"])
def test_a_description_that_is_no_object_is_refused(tmp_path, content):
    torch.save({"meta": content, "state": {"model": {}}}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth "):
        checkpoint.load_meta(tmp_path / "w.pth")
