"""`export.py` writes a file from a run's folder, checks it, and prints what it found."""

import re

import numpy as np
import pytest

from exported_models import EXTRA
from helpers import encoded, noise, rows, write_dataset
from runner import Runner, run_forked


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    runner = Runner(folder, write_dataset(folder / "data", rows(40) + rows(12, "test", seed=90), ["a", "b"]))
    runner("--epochs", "1")
    return runner


def export(runner, *options):
    return run_forked(runner.folder, "export", *options, environment=runner.environment)


@pytest.mark.skipif(bool(EXTRA), reason=f"the extra `export` is not installed: {', '.join(EXTRA)}")
def test_the_newest_run_is_compared_on_its_own_test_images(trained):
    done = export(trained, "--prepared", "prepared")
    assert done.returncode == 0, done.stderr
    assert "compared with the checkpoint on 12 images" in done.stdout
    for runtime in ("onnxruntime", "openvino"):
        (line, *_) = [line for line in done.stdout.splitlines() if line.startswith(runtime)]
        assert line.endswith("100.0%")
    assert (trained.experiments[0] / "model/model.onnx").is_file()
    assert "largest difference 0.00e+00" in done.stdout.splitlines()[-1], "PNGs are decoded to one set of pixels"


def test_images_of_12_bits_are_compared_by_the_bits_that_they_use(tmp_path):
    deep = [
        {"data": encoded(noise(n).astype(np.uint16) * 16), "label": "ab"[n % 2], "split": "train" if n < 30 else "test"}
        for n in range(40)
    ]
    runner = Runner(tmp_path, write_dataset(tmp_path / "data", deep, ["a", "b"]))
    runner("--epochs", "1")
    done = export(runner, "--format", "torch-export", "--prepared", "prepared")
    assert done.returncode == 0, done.stderr
    assert "compared with the checkpoint on 10 images" in done.stdout
    assert "Note: The images of the training used 12 of 16 bits" in done.stdout
    assert "largest difference 0.00e+00, top-1 agreement 100.0%" in done.stdout.splitlines()[-1]


def test_without_the_dataset_images_are_made(trained):
    done = export(trained, "--format", "torch-export", "--output", "other.pt2", "--prepared", "elsewhere")
    assert done.returncode == 0, done.stderr
    assert "comparing on images made from a seed" in done.stderr
    assert "made images" in done.stdout


def test_named_images_are_used_and_missing_ones_are_an_error(trained):
    done = export(trained, "--format", "torch-export", "--output", "a.pt2", "--images", "data", "--check-images", "5")
    assert "compared with the checkpoint on 5 images" in done.stdout
    done = export(trained, "--format", "torch-export", "--output", "b.pt2", "--images", "gone.png")
    assert done.returncode == 2
    assert "There is no file or folder gone.png" in done.stderr
    assert not (trained.folder / "b.pt2").exists()


@pytest.mark.slow
@pytest.mark.skipif(bool(EXTRA), reason=f"the extra `export` is not installed: {', '.join(EXTRA)}")
def test_8_bits_are_measured_on_the_test_images(trained):
    done = export(trained, "--prepared", "prepared", "--int8", "--largest-loss", "1")
    file = trained.experiments[0] / "model/model-int8.onnx"
    assert re.search(r"Choosing ranges on \d\d training images, measuring on 12 others", done.stderr)
    if done.returncode == 0:
        assert "12 labeled images" in done.stdout
        assert file.is_file()
    else:  # a network as small as this one need not be faster
        assert "8 bits are pointless here" in done.stderr
        assert not file.exists()


def test_8_bits_need_the_dataset(trained):
    done = export(trained, "--prepared", "elsewhere", "--int8")
    assert done.returncode == 2
    assert "were not found in elsewhere: prepare it" in done.stderr
