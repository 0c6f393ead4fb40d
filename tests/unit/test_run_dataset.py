"""A model is evaluated on the images that its run held out, wherever its dataset is and however it was read."""

import ast
import dataclasses
import re
import shutil
from pathlib import Path

import pytest

from helpers import encoded, meta_of, noise, rows, write_dataset
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.checkpoint.load_model import load_model
from trainer_classification.config import EvaluateConfig, PrepareConfig, TrainConfig
from trainer_classification.data import manifest as manifests
from trainer_classification.exporting.check_images import find_originals
from trainer_classification.inference.evaluate import evaluate
from trainer_classification.inference.evaluate_command import _chosen_options, run_evaluation
from trainer_classification.inference.run_dataset import find_prepared
from trainer_classification.models import build
from trainer_classification.options import flag, mark_given, options_of
from trainer_classification.preparation.pipeline import prepare
from trainer_classification.training.dataset import prepare_options
from trainer_classification.training.setup import portable_options

PACKAGE = Path(__file__).parents[2] / "src/trainer_classification"
SIDE = 12


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder that runs are started in."""
    monkeypatch.delenv("HAFNIA_CLOUD", raising=False)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


def write_folder(place, count=40):
    """A folder of images without splits, two classes."""
    for number in range(count):
        path = Path(place, "ab"[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(noise(number, SIDE, SIDE)))


def write_table(place):
    """A folder of images with a table whose columns have odd names; returns the table."""
    write_folder(place)
    images = sorted(Path(place).rglob("*.png"))
    lines = [f"{path.relative_to(place)},{path.parent.name},{number % 4}" for number, path in enumerate(images)]
    table = Path(place, "table.csv")
    table.write_text("\n".join(["where is it,what,part", *lines]))
    return table


def save_run(name="one", side=SIDE, **options):
    """What a run leaves of a network that nothing has trained: the folder of the run, and its manifest."""
    config = TrainConfig(image_size=side, device="cpu", **options)
    found = prepare(dataclasses.replace(prepare_options(config), formats="array", workers=1)).manifest
    meta = meta_of(
        dataset=found.dataset,
        class_names=found.class_names,
        channels=1,
        image_size=side,
        mean=[0.5],
        std=[0.2],
        fingerprint=found.fingerprint,
        task=found.task,
    )
    run = Path(".data/experiments", name)
    tensors = {"model": build("resnet-small", len(found.class_names), 1, side, 8).state_dict()}
    for path, values in (
        ("model/model.pth", portable_options(config)),
        ("checkpoints/last.pth", dataclasses.asdict(config)),
    ):
        (run / path).parent.mkdir(parents=True)
        checkpoint.save(run / path, tensors, dataclasses.replace(meta, config=values))
    return run, found


def figures(run, dataset="", **options):
    return evaluate(run, dataset, device="cpu", amp="off", threads=1, **options)


def test_the_dataset_of_the_run_is_cut_as_by_the_run():
    write_folder("photos")
    run, found = save_run(dataset="photos", test_fraction=0.4, validation_fraction=0.0)
    for dataset in ("", "photos"):
        report = figures(run, dataset)
        assert report.fingerprint == found.fingerprint
        assert len(report.files) == found.splits["test"].count
        assert [note for note in report.notes if "held out" in note] == []
        with pytest.raises(ValueError, match=r"no labeled images in its split 'validation'.*validation-fraction is 0"):
            figures(run, dataset, split="validation")


def test_another_cut_says_how_many_images_were_trained_on():
    write_folder("photos")
    run, found = save_run(dataset="photos", test_fraction=0.05)
    for dataset in ("", "photos"):
        report = figures(run, dataset, data_options={"test_fraction": 0.5})
        held_out = set(figures(run).files) | set(figures(run, split="validation").files)
        trained_on = len(set(report.files) - held_out)
        assert trained_on > 0
        (note,) = [note for note in report.notes if "held out" in note]
        assert f"{trained_on} of the {len(report.files)} are training images of the run" in note
        assert report.fingerprint != found.fingerprint


def test_other_images_are_said_to_be_others():
    write_folder("photos")
    write_folder("others", 30)
    run, _ = save_run(dataset="photos")
    report = figures(run, "others")
    assert any(note.endswith("those that the run held out.") for note in report.notes)


def test_images_that_were_held_out_need_no_note_whatever_else_differs():
    write_folder("photos")
    run, found = save_run(dataset="photos", name="small")
    other, _ = save_run(dataset="photos", name="large", side=16, validation_fraction=0.3)
    same_size, _ = save_run(dataset="photos", name="same", validation_fraction=0.3)
    for path in (other, same_size):
        report = figures(path, like=load_model(run))
        assert report.files == figures(run).files
        assert [note for note in report.notes if "held out" in note] == []
    assert report.fingerprint == found.fingerprint


def test_of_two_datasets_with_equal_names_and_sizes_that_of_the_run_is_found(folder):
    runs = {}
    for seed, name in enumerate("xyz"):
        images = [row | {"data": encoded(noise(100 * seed + i), "BMP")} for i, row in enumerate(rows(20))]
        runs[write_dataset(folder / name, images, ["a", "b"])] = name
    found = {place: save_run(name, dataset=str(place)) for place, name in runs.items()}
    assert len({manifest.fingerprint for _, manifest in found.values()}) == 1
    for place, (run, _) in found.items():
        prepared = find_prepared(load_model(run))
        assert Path(manifests.read(prepared).root) == place


@pytest.mark.parametrize("has_prepared", [True, False])
def test_a_dataset_of_the_same_name_is_not_taken_for_that_of_the_run(folder, has_prepared):
    mine = write_dataset(folder.parent / "mine/tiny", rows(30) + rows(9, "test", seed=90), ["a", "b"])
    write_dataset(Path(".data/datasets/tiny"), rows(20, seed=50) + rows(4, "test", seed=80), ["a", "b"])
    run, found = save_run(dataset=str(mine))
    if not has_prepared:
        shutil.rmtree(".data/prepared")
    assert figures(run).fingerprint == found.fingerprint

    # A model that was copied somewhere knows no more than the name.
    alone = shutil.copy(run / "model/model.pth", "alone.pth")
    if has_prepared:
        assert figures(alone).fingerprint == found.fingerprint
    shutil.rmtree(".data/prepared")
    with pytest.raises(ValueError, match=r"is here another dataset than the tiny .* --dataset FOLDER"):
        figures(alone)
    assert len(figures(alone, "tiny").files) == 4


@pytest.mark.parametrize("deleted", ["", ".data/prepared"])
def test_a_folder_or_table_is_found_from_elsewhere(folder, monkeypatch, deleted):
    table = write_table("photos")
    columns = {"path_column": "where is it", "label_column": "what"}
    run, found = save_run(dataset=str(table), **columns)
    if deleted:
        shutil.rmtree(deleted)
    assert figures(run).fingerprint == found.fingerprint
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert figures(folder / run).fingerprint == found.fingerprint
    assert figures(folder / run, str(folder / table)).fingerprint == found.fingerprint


def test_what_is_nowhere_is_one_sentence_that_says_what_to_do(folder):
    write_folder("own/photos")
    run, _ = save_run(dataset="own/photos", prepared="kept")
    shutil.rmtree("own")
    assert figures(run).dataset == "photos"  # it lies prepared where the run has put it
    shutil.rmtree("kept")
    message = (
        r"The dataset photos.* neither prepared in \.data/prepared, kept nor at own/photos: .*--dataset.*--prepared"
    )
    with pytest.raises(ValueError, match=message):
        figures(run)
    with pytest.raises(ValueError, match=r"prepared in here nor at own/photos"):
        figures(run, prepared="here")
    alone = shutil.copy(run / "model/model.pth", "alone.pth")
    with pytest.raises(ValueError, match=r"The dataset photos.*own/photos: name its folder"):
        figures(alone)
    write_folder(folder.parent / "lost/pictures")
    run, _ = save_run("two", dataset=str(folder.parent / "lost/pictures"), prepared="kept")
    shutil.rmtree(folder.parent / "lost")
    shutil.rmtree("kept")
    alone = shutil.copy(run / "model/model.pth", "alone.pth")
    with pytest.raises(ValueError, match=r"by its name \(There is no dataset 'pictures'.*\): name its folder"):
        figures(alone)


def test_unknown_folders_and_bad_images_are_treated_as_by_the_run():
    write_folder("photos/train")
    write_folder("photos/extra")
    Path("photos/train/a/bad.png").write_bytes(b"no image")
    options = {"unknown_folders": "skip", "on_bad_image": "skip"}
    run, found = save_run(dataset="photos", **options)
    shutil.rmtree(".data/prepared")
    assert figures(run).fingerprint == found.fingerprint
    assert figures(run, "photos").fingerprint == found.fingerprint
    with pytest.raises(ValueError, match="--unknown-folders skip"):
        figures(run, data_options={"unknown_folders": "fail"})


def test_a_compared_model_sees_the_images_of_the_first_and_those_it_trained_on_are_told(capsys):
    write_folder("photos")
    first, _ = save_run("first", dataset="photos", test_fraction=0.5)
    second, _ = save_run("second", dataset="photos", test_fraction=0.05)
    run_evaluation(EvaluateConfig(model=str(first), compare=str(second), device="cpu", amp="off", workers=1))
    shown = capsys.readouterr().out
    (note,) = [line for line in shown.splitlines() if "held out" in line]
    assert re.match(r"Note on --compare: .* \d+ of the \d+ are training images of the run\.$", note)


def test_an_old_checkpoint_without_options_is_evaluated():
    write_dataset(Path(".data/datasets/tiny"), rows(20) + rows(4, "test", seed=80), ["a", "b"])
    run, found = save_run(dataset="tiny")
    tensors, meta = checkpoint.load(run / "model/model.pth")
    checkpoint.save(Path("old.pth"), tensors, dataclasses.replace(meta, config={"project_name": "p"}))
    assert figures("old.pth").fingerprint == found.fingerprint
    strange = {"project_name": "p", "dataset": 7, "test_fraction": "all", "nested": None, "output_dir": []}
    checkpoint.save(Path("strange.pth"), tensors, dataclasses.replace(meta, config=strange))
    assert figures("strange.pth", "tiny").fingerprint == found.fingerprint


def test_export_finds_the_images_where_the_run_prepared_them(folder, monkeypatch):
    write_folder("photos")
    run, found = save_run(dataset=str(folder / "photos"), prepared="kept")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    images = find_originals(load_model(folder / run), "", 100)
    assert len(images.paths) == found.splits["test"].count


def test_a_form_that_gives_every_option_leaves_those_of_the_run(monkeypatch):
    config = EvaluateConfig(test_fraction=0.3)
    mark_given(config, options_of(EvaluateConfig))
    assert _chosen_options(config)["validation_fraction"] == 0.1
    monkeypatch.setattr("trainer_classification.inference.evaluate_command.in_cloud", lambda: True)
    assert _chosen_options(config) == {"test_fraction": 0.3}


def test_options_of_the_dataset_are_those_of_prepare():
    ours = options_of(EvaluateConfig)
    for name in ours.keys() & options_of(PrepareConfig).keys() - {"dataset", "workers"}:
        kind, option, default = options_of(PrepareConfig)[name]
        assert (ours[name][0], ours[name][2]) == (kind, default)
        assert (ours[name][1].at_least, ours[name][1].at_most) == (option.at_least, option.at_most)


# Parts of the package whose messages `evaluate.py` may end with.
REACHED = ("data", "preparation", "loaders", "inference", "storage.py", "files.py", "device.py")
# Messages about an option of another command, which they name otherwise or which must have been given.
OF_OTHERS = (
    "Train at a smaller --image-size",
    "or train at a smaller --image-size",
    "so training flips no images by default; --flip random",
    "bound them with --beton-side",  # the default bounds them
    "has no effect: --formats",
    "--formats planes is for photographs",
    "--executor ",
    "--loader ",
    "--embeddings ",
    "`dask worker ",
    "`ray start ",
)


def messages(path):
    """Every text in a file that is no docstring; "" in place of what is computed."""
    tree = ast.parse(path.read_text())
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(value) for node in joined for value in node.values}
    parts |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in joined:
        yield "".join(value.value for value in node.values if isinstance(value, ast.Constant))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def test_no_message_names_an_option_that_evaluate_lacks():
    known = {flag(name) for name in options_of(EvaluateConfig)}
    paths = [path for part in REACHED for path in [*sorted(PACKAGE.glob(f"{part}/**/*.py")), PACKAGE / part]]
    found = [text for path in paths if path.is_file() for text in messages(path) if re.search(r" --[a-z]", text)]
    assert len(found) > 30
    for text in found:
        named = set(re.findall(r"--[a-z][a-z-]*[a-z]", text))
        is_other = "prepare.py" in text or any(part in text for part in OF_OTHERS)
        assert is_other or named <= known, text
