"""What a run leaves classifies images: on the command line, for Hafnia's benchmark, and for the SDK."""

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from helpers import TASK, encoded, noise, write_dataset
from runner import ROOT, Runner
from trainer_classification import cli
from trainer_classification.checkpoint.load_model import load_model
from trainer_classification.config import PredictConfig, PrepareConfig, TrainConfig
from trainer_classification.data.table import open_table
from trainer_classification.inference import command
from trainer_classification.inference.explain import explain
from trainer_classification.inference.predictor import Predictor
from trainer_classification.loaders.base import LoaderRequest
from trainer_classification.loaders.registry import choose_engine, open_loader
from trainer_classification.models.normalize import Normalize
from trainer_classification.preparation.pipeline import prepare
from trainer_classification.training.evaluate import evaluate
from trainer_classification.training.train import train_prepared

HEAVY = ["hafnia", "polars", "matplotlib", "rich", "torchvision", "jinja2", "nvidia.dali"]


class Predict:
    """`scripts/predict.py` in the folder of a run: by a call in this process, or as a command of its own."""

    def __init__(self, runner: Runner) -> None:
        self.folder, self.environment, self.dataset = runner.folder, runner.environment, runner.dataset

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(ROOT / "scripts/predict.py"), "--device", "cpu", *map(str, arguments)]

    def __call__(self, *arguments: str, code: int = 0, stdin: str = "", **environment: str) -> str:
        out = io.TextIOWrapper(io.BytesIO())
        error = io.StringIO()
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(error),
            mock.patch.object(sys, "stdin", io.StringIO(stdin)),
            mock.patch.dict(os.environ, self.environment | environment, clear=True),
        ):
            found = cli.run(PredictConfig, command.run, ["--device", "cpu", *map(str, arguments)])
        self.stderr = error.getvalue()
        assert found == code, self.stderr[-3000:]
        return out.buffer.getvalue().decode()

    def run(self, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            env=self.environment | environment,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="module")
def predict(tmp_path_factory, dataset):
    """Beside a finished local run on the tiny dataset, whose class b is bright."""
    runner = Runner(tmp_path_factory.mktemp("predict"), dataset)
    runner()
    return Predict(runner)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory, dataset):
    """Beside the folders of a finished run in the cloud; `archives` holds its checkpoint.zip alone."""
    runner = Runner(tmp_path_factory.mktemp("cloud"), dataset)
    names = ("MDI_MODEL_DIR", "MDI_CHECKPOINT_DIR", "MDI_ARTIFACT_DIR")
    folders = {name: str(runner.folder / name) for name in names}
    runner(HAFNIA_CLOUD="true", MDI_DATASET_DIR=str(dataset), **folders)
    found = Predict(runner)
    found.archives = runner.folder / "archives"
    found.archives.mkdir()
    shutil.copy(runner.folder / "MDI_CHECKPOINT_DIR/checkpoint.zip", found.archives)
    return found


def rows_of_test(dataset: Path) -> pl.DataFrame:
    table = pl.read_parquet(dataset / "annotations.parquet").filter(pl.col("split") == "test")
    return table.with_columns(label=pl.col("classifications").list.first().struct.field("class_name"))


@pytest.mark.parametrize(("name", "size"), [("mnist", 0), ("caltech-101", 64)])
def test_predictions_of_the_test_split_are_the_runs_own(tmp_path, name, size):
    """Kept small images and resized photos: accuracy and confusion matrix, from the files."""
    options = PrepareConfig(
        dataset=str(ROOT / "samples" / name), prepared=str(tmp_path), formats="array", image_size=size, workers=2
    )
    prepared = prepare(options)
    folder, manifest = prepared.folder, prepared.manifest
    config = TrainConfig(
        model="resnet-small", epochs=1, batch_size=32, max_steps_per_epoch=30, device="cpu", loader="resident",
        output_dir=str(tmp_path), amp="off",
    )  # fmt: skip
    summary = train_prepared(config, folder, manifest, time.monotonic())
    model = load_model(next((tmp_path / "experiments").iterdir()))

    device = torch.device("cpu")
    request = LoaderRequest(
        folder, manifest, "test", None, 32, model.image_size, device, threads=1, eval_crop=model.eval_crop
    )
    engine = choose_engine("resident", manifest.array_layout, 1, device)
    normalize = Normalize(manifest.mean, manifest.std, device)
    with open_loader(engine, request) as loader:
        evaluated = evaluate(model.network, loader, normalize, len(model.class_names))

    table = open_table(folder, manifest, "test")
    paths = [os.path.join(manifest.root, file) for file in table.files]
    predictions = Predictor(model, "cpu", batch_size=7, threads=2, amp="off").predict(paths)
    classes = np.array([model.class_names.index(prediction.class_name) for prediction in predictions])
    confusion = np.zeros_like(evaluated.confusion)
    np.add.at(confusion, (table.labels, classes), 1)
    assert np.array_equal(confusion, evaluated.confusion)
    assert (classes == table.labels).mean() == pytest.approx(summary["accuracy_test"], abs=1e-12)


@pytest.mark.parametrize("image_size", [0, 24])
def test_16_bit_images_that_use_few_bits_are_seen_as_they_were_trained_on(tmp_path, image_size):
    """Kept and resized: by 8 bits of 16 all would be black, and of one class."""
    rows = []
    for number in range(80):
        pixels = (noise(number, 28, 28) // 2 + 110 * (number % 2)).astype(np.uint16) * 2  # 9 bits
        split = "train" if number < 60 else "test"
        rows.append({"data": encoded(pixels), "label": "ab"[number % 2], "split": split, "width": 28, "height": 28})
    dataset = write_dataset(tmp_path / "deep", rows, ["a", "b"])
    options = PrepareConfig(dataset=str(dataset), prepared=str(tmp_path), image_size=image_size, workers=2)
    prepared = prepare(options)
    assert prepared.manifest.gray_shift == 1
    config = TrainConfig(model="resnet-small", epochs=3, batch_size=16, device="cpu", output_dir=str(tmp_path))
    summary = train_prepared(config, prepared.folder, prepared.manifest, time.monotonic())
    assert summary["accuracy_test"] > 0.8

    (run,) = (tmp_path / "experiments").iterdir()
    paths = sorted((dataset / "data").iterdir())[60:]
    for place in ("model/model.pth", "model/model.zip"):
        predictor = Predictor(load_model(run / place), "cpu")
        predictions = list(predictor.predict(paths))
        right = [found.class_name == row["label"] for found, row in zip(predictions, rows[60:], strict=True)]
        assert np.mean(right) == pytest.approx(summary["accuracy_test"])
        opened = [found.confidence for found in predictor.predict(map(Image.open, paths))]
        assert opened == pytest.approx([found.confidence for found in predictions], abs=1e-6)


def test_the_newest_run_classifies_a_folder_as_json_in_order(predict):
    lines = [json.loads(line) for line in predict(predict.dataset / "data", "--top-k", "2").splitlines()]
    assert "the newest run" in predict.stderr
    assert "130 images in" in predict.stderr
    assert [line["path"] for line in lines] == sorted(line["path"] for line in lines)
    assert all(line["class"] == line["top"][0]["class"] for line in lines)
    assert all(sum(entry["confidence"] for entry in line["top"]) == pytest.approx(1, abs=1e-5) for line in lines)
    named = {Path(line["path"]).name: line["class"] for line in lines}
    table = rows_of_test(predict.dataset)
    right = [named[Path(path).name] == label for path, label in zip(table["file_path"], table["label"], strict=True)]
    (summary,) = predict.folder.glob(".data/experiments/*/data/summary.json")
    assert np.mean(right) == pytest.approx(json.loads(summary.read_text())["accuracy_test"])


@pytest.mark.parametrize("place", [".", "model/model.pth", "checkpoints/best.pth", "checkpoints/last.pth"])
def test_whatever_a_run_leaves_can_be_named(predict, place):
    (run,) = predict.folder.glob(".data/experiments/*")
    photo = sorted((predict.dataset / "data").iterdir())[0]
    (line,) = predict("--model", run / place, photo).splitlines()
    assert json.loads(line)["class"] in "ab"


def test_an_archive_can_be_named_and_a_list_comes_on_stdin(cloud):
    names = [str(path) for path in sorted((cloud.dataset / "data").iterdir())[:3]]
    out = cloud("--model", cloud.archives / "checkpoint.zip", "-", stdin="\n".join([*names, "gone.png"]))
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["path"] for line in lines] == [*names, "gone.png"]
    assert lines[3]["error"] == "cannot be read: No such file or directory"


def test_bad_images_are_lines_in_their_place_as_csv(predict, tmp_path):
    for number in range(30):
        data = encoded(noise(number, 28, 28))
        (tmp_path / f"{number:02}.png").write_bytes(data if number % 10 else data[:40])
    rows = list(csv.DictReader(io.StringIO(predict(tmp_path / "*.png", "--format", "csv", "--batch-size", "4"))))
    assert [Path(row["path"]).name for row in rows] == [f"{number:02}.png" for number in range(30)]
    assert [number for number, row in enumerate(rows) if row["error"]] == [0, 10, 20]
    assert "3 could not be classified" in predict.stderr


def test_a_photo_of_ones_own_of_any_kind_is_classified(predict, tmp_path):
    Image.fromarray(noise(1, 300, 400, 3)).save(tmp_path / "photo.jpg")
    Image.fromarray(noise(1, 30, 20, 4)).save(tmp_path / "drawing.png")
    lines = [json.loads(line) for line in predict(tmp_path).splitlines()]
    assert [set(line) for line in lines] == [{"path", "class", "confidence", "top"}] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.png"], "There is no file or folder gone.png."),
        ([], "No images were named"),
        (["--model", "gone.pth", ROOT / "samples/mnist/data"], "gone.pth"),
        (["--model-dir", "x"], "--dataset-dir, --output-dir is missing"),
    ],
)
def test_errors_of_the_user_are_one_line(predict, arguments, message):
    assert predict(*arguments, code=2) == ""
    assert message in predict.stderr
    assert "Traceback" not in predict.stderr


def test_without_any_image_that_can_be_read_the_exit_code_is_1(predict, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    assert json.loads(predict(tmp_path / "a.png", code=1))["error"] == "empty file"


@pytest.mark.parametrize("options", [(), ("--embeddings", "out.npy")])
def test_a_list_on_stdin_that_is_empty_is_an_error(predict, options):
    assert predict("-", *options, code=2, stdin="\n\n") == ""
    assert "The list on stdin names no images" in predict.stderr
    assert not (predict.folder / "out.npy").exists()


def test_a_reader_that_has_seen_enough_is_no_error(predict):
    paths = "\n".join(str(path) for path in (predict.dataset / "data").iterdir())
    process = subprocess.Popen(
        predict.command("--batch-size", "1", "-"),
        cwd=predict.folder,
        env=predict.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    _, error = process.communicate(paths, timeout=120)
    assert process.returncode == 0
    assert "Error" not in error
    assert "Traceback" not in error


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_it_has_written_whole_lines(predict, tmp_path, stop):
    photo = str(sorted((predict.dataset / "data").iterdir())[0])
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            predict.command("-"),
            cwd=predict.folder,
            env=predict.environment,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.PIPE,
        )
        with process, process.stdin:
            while (tmp_path / "out").stat().st_size == 0:  # a pipe holds some 64 KB: this waits for the reader
                process.stdin.write(f"{photo}\n".encode() * 100)
                process.stdin.flush()
            process.send_signal(stop)
            error = process.stderr.read().decode()
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert error.splitlines()[-1].startswith("Interrupted. Each printed line is whole")
        assert "Traceback" not in error
    written = (tmp_path / "out").read_bytes()
    assert written.endswith(b"\n")
    assert all(json.loads(line)["path"] == photo for line in written.splitlines())


PROGRAM = """
import os, runpy, sys
script, heavy, *sys.argv[1:] = sys.argv[1:]
leave = os._exit

def report(code):  # commands end by os._exit, without what atexit has
    print([name for name in heavy.split(",") if name in sys.modules], file=sys.stderr, flush=True)
    leave(code)

os._exit = report
sys.path.insert(0, script)
runpy.run_path(script + "/predict.py", run_name="__main__")
"""


def test_one_photo_is_answered_without_what_it_does_not_need(predict):
    """Images that kept their size need no kernels, so no numba either."""
    photo = sorted((predict.dataset / "data").iterdir())[0]
    names = ",".join([*HEAVY, "numba", "trainer_classification.training"])
    program = [sys.executable, "-c", PROGRAM, str(ROOT / "scripts"), names, "--device", "cpu", str(photo)]
    done = subprocess.run(program, cwd=predict.folder, env=predict.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_the_example_classifies_photos(predict):
    (run,) = predict.folder.glob(".data/experiments/*")
    photos = sorted(str(path) for path in (predict.dataset / "data").iterdir())[:2]
    program = [sys.executable, str(ROOT / "examples/use_model.py"), str(run), *photos]
    done = subprocess.run(program, env=predict.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("A resnet-small for 2 classes, trained on tiny at 28 px.")
    assert done.stdout.count("%  ") == 4


def without_labels(dataset: Path, folder: Path) -> Path:
    """The dataset as a benchmark hands it out."""
    shutil.copytree(dataset, folder)
    table = pl.read_parquet(folder / "annotations.parquet")
    empty = pl.lit([], dtype=table.schema["classifications"])
    table.with_columns(classifications=empty).write_parquet(folder / "annotations.parquet")
    return folder


def run_benchmark_job(cloud, dataset: Path, output: Path) -> None:
    cloud("--model-dir", cloud.archives, "--dataset-dir", dataset, "--output-dir", output)


def test_the_benchmark_reads_and_scores_the_predictions(cloud, tmp_path):
    from hafnia.dataset.hafnia_dataset import HafniaDataset

    run_benchmark_job(cloud, cloud.dataset, tmp_path / "out")
    found = HafniaDataset.from_path(tmp_path / "out", check_for_images=False)
    assert [task.name for task in found.info.tasks] == [TASK, f"{TASK}/predictions"]
    assert set(pl.read_parquet(tmp_path / "out/annotations.parquet")["file_path"]) == {""}
    made_by = explain(cloud.archives / "checkpoint.zip")[0].split(":")[0]
    assert explain(tmp_path / "out")[1] == made_by
    entries = found.samples["classifications"].to_list()
    assert all([entry["ground_truth"] for entry in row] == [True, False] for row in entries)
    assert all(0.5 <= row[1]["confidence"] <= 1 for row in entries)

    names = pl.read_parquet(cloud.dataset / "annotations.parquet")
    found.samples = found.samples.filter(names["split"] == "test")
    metrics = found.calculate_classification_metrics(f"{TASK}/predictions", TASK)
    summary = json.loads((cloud.folder / "MDI_ARTIFACT_DIR/summary.json").read_text())
    assert metrics.accuracy == pytest.approx(summary["accuracy_test"])
    assert (metrics.n_gt_missing, metrics.n_pred_missing) == (0, 0)


@pytest.mark.parametrize("place", ["d", "d/../d", "link", "d/dataset_info.json"])
def test_the_benchmark_does_not_write_over_its_dataset(cloud, tmp_path, place):
    shutil.copytree(cloud.dataset, tmp_path / "d")
    os.symlink("d", tmp_path / "link")
    before = {path: path.read_bytes() for path in sorted((tmp_path / "d").rglob("*.*"))}
    folders = ("--dataset-dir", tmp_path / "d", "--output-dir", tmp_path / place)
    assert cloud("--model-dir", cloud.archives, *folders, code=2) == ""
    assert f"Error: --output-dir {tmp_path / place}" in cloud.stderr
    assert {path: path.read_bytes() for path in sorted((tmp_path / "d").rglob("*.*"))} == before


def test_a_dataset_without_labels_is_predicted_all_the_same(cloud, tmp_path):
    from hafnia.dataset.hafnia_dataset import HafniaDataset

    run_benchmark_job(cloud, cloud.dataset, tmp_path / "labeled")
    run_benchmark_job(cloud, without_labels(cloud.dataset, tmp_path / "d"), tmp_path / "out")
    labeled, found = (HafniaDataset.from_path(tmp_path / name, check_for_images=False) for name in ("labeled", "out"))
    metrics = found.calculate_classification_metrics(f"{TASK}/predictions", TASK)
    assert metrics.n_gt_missing == len(found.samples) == 130

    def predicted(dataset):
        return [row[-1]["class_name"] for row in dataset.samples["classifications"].to_list()]

    assert predicted(found) == predicted(labeled)


def test_an_image_that_cannot_be_read_is_a_missing_prediction(cloud, tmp_path):
    from hafnia.dataset.hafnia_dataset import HafniaDataset

    shutil.copytree(cloud.dataset, tmp_path / "d")
    sorted((tmp_path / "d/data").iterdir())[0].unlink()
    run_benchmark_job(cloud, tmp_path / "d", tmp_path / "out")
    assert "has no prediction: cannot be read" in cloud.stderr
    metrics = HafniaDataset.from_path(tmp_path / "out", check_for_images=False).calculate_classification_metrics(
        f"{TASK}/predictions", TASK
    )
    assert metrics.n_pred_missing == 1


def test_classes_are_numbered_as_in_the_dataset(cloud, tmp_path):
    """The SDK refuses to compare lists of classes in another order."""
    from hafnia.dataset.hafnia_dataset import HafniaDataset

    shutil.copytree(cloud.dataset, tmp_path / "d")
    info = json.loads((tmp_path / "d/dataset_info.json").read_text())
    info["tasks"][0]["classes"].reverse()
    (tmp_path / "d/dataset_info.json").write_text(json.dumps(info))
    run_benchmark_job(cloud, tmp_path / "d", tmp_path / "out")
    found = HafniaDataset.from_path(tmp_path / "out", check_for_images=False)
    assert found.calculate_classification_metrics(f"{TASK}/predictions", TASK).accuracy > 0.5
    pairs = {(row[1]["class_name"], row[1]["class_idx"]) for row in found.samples["classifications"].to_list()}
    assert pairs == {("b", 0), ("a", 1)}


@pytest.mark.parametrize("count", [0, 2])
def test_the_benchmark_wants_exactly_one_archive(cloud, tmp_path, count):
    for number in range(count):
        shutil.copy(cloud.archives / "checkpoint.zip", tmp_path / f"{number}.zip")
    folders = ("--dataset-dir", cloud.dataset, "--output-dir", tmp_path / "out")
    assert cloud("--model-dir", tmp_path, *folders, code=1) == ""
    assert "must hold exactly one *.zip" in cloud.stderr
    assert not (tmp_path / "out").exists()


def test_in_the_cloud_the_archive_becomes_the_experiments_model(cloud, tmp_path):
    folders = {name: str(tmp_path / name) for name in ("MDI_MODEL_DIR", "MDI_CHECKPOINT_DIR", "MDI_ARTIFACT_DIR")}
    arguments = ("--model-dir", cloud.archives, "--dataset-dir", cloud.dataset, "--output-dir", tmp_path / "out")
    cloud.run(*arguments, HAFNIA_CLOUD="true", **folders)
    with zipfile.ZipFile(tmp_path / "MDI_MODEL_DIR/checkpoint.zip") as copied:
        assert "weights.pth" in copied.namelist()
    assert (tmp_path / "out/annotations.parquet").is_file()


def test_the_sdks_benchmark_takes_the_model_and_finds_the_same(cloud, tmp_path):
    from hafnia.dataset.benchmark.benchmark import run_benchmark
    from hafnia.dataset.hafnia_dataset import HafniaDataset

    from trainer_classification.inference.inference_model import ClassificationModel

    model = ClassificationModel(load_model(cloud.archives / "checkpoint.zip"), device="cpu")
    dataset = HafniaDataset.from_path(cloud.dataset)
    scores, found = run_benchmark(dataset, model, batch_size=32)
    run_benchmark_job(cloud, cloud.dataset, tmp_path / "out")
    written = HafniaDataset.from_path(tmp_path / "out", check_for_images=False)
    metrics = written.calculate_classification_metrics(f"{TASK}/predictions", TASK)
    assert scores[f"{TASK}/accuracy"] == metrics.accuracy

    def predicted(dataset):
        rows = dataset.samples["classifications"].to_list()
        return [(row[-1]["class_name"], row[-1]["class_idx"], row[-1]["task_name"]) for row in rows]

    assert predicted(found) == predicted(written)
    with pytest.raises(ValueError, match="give one for each"):
        model.predict_batch([noise(0, 28, 28)], [{}, {}])
    (single,) = model.predict(noise(0, 28, 28))
    assert (single.ground_truth, single.task_name) == (False, TASK)
    assert model.get_model_info().tasks[0].get_class_names() == ["a", "b"]


@pytest.mark.slow
def test_ten_thousand_images_are_ten_thousand_lines_in_the_memory_of_a_thousand(predict, tmp_path):
    for number in range(100):
        data = encoded(noise(number, 28, 28))
        (tmp_path / f"{number:02}.png").write_bytes(data if number else data[:40])
    peaks = []
    for count in (1000, 10_000):
        names = [str(tmp_path / f"{number % 100:02}.png") for number in range(count)]
        (tmp_path / "list").write_text("\n".join(names))
        with (tmp_path / "list").open() as listed, (tmp_path / "out").open("w") as out:
            process = subprocess.Popen(
                predict.command("-"), cwd=predict.folder, env=predict.environment, stdin=listed, stdout=out
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss)
        lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
        assert [line["path"] for line in lines] == names
        assert sum("error" in line for line in lines) == count // 100
    assert peaks[1] < 1.1 * peaks[0]


def test_embeddings_are_a_row_a_line(predict, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    photos = sorted((predict.dataset / "data").iterdir())[:3]
    lines = predict(photos[0], bad, *photos[1:], "--embeddings", tmp_path / "out.npy").splitlines()
    rows = np.load(tmp_path / "out.npy")
    assert (len(rows), rows.dtype) == (len(lines), np.float32) == (4, np.float32)
    assert np.isnan(rows).all(axis=1).tolist() == ["error" in json.loads(line) for line in lines]
    assert "Embeddings:" in predict.stderr


def test_a_place_for_embeddings_that_is_not_there_is_found_first(predict, tmp_path):
    photo = sorted((predict.dataset / "data").iterdir())[0]
    assert predict(photo, "--embeddings", tmp_path / "none" / "out.npy", code=2) == ""
    assert "there is no folder" in predict.stderr
