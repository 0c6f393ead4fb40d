"""Commands that are killed at random moments leave no half of a file, and end with the same result afterwards.

Each is killed 5 times with HARDENING_COUNT=1, all exports together 5 times; 100 times with HARDENING_COUNT=20.
"""

import shutil

import pytest

from forked_commands import TRAIN
from hardening.conftest import needs_whole_count
from hardening.written_files import check_whole, outputs, result
from helpers import tree

WRITERS = {
    "evaluate": (("evaluate", "--device", "cpu", "--json-file", "out.json", "--csv-file", "out.csv"), 5),
    "predict": (("predict", "--device", "cpu", "--embeddings", "out.npy", "images"), 5),
    "onnx": (("export", "--output", "out.onnx"), 1.5),
    "openvino": (("export", "--format", "openvino", "--output", "out.xml"), 1.5),
    "torch-export": (("export", "--format", "torch-export", "--output", "out.pt2"), 2),
}
CONVERTED = ("onnx", "openvino")  # a conversion takes ten seconds; the files are replaced as those of torch-export are


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_whole_count if name in CONVERTED else ()) for name in WRITERS]
)
def test_a_killed_command_leaves_whole_files_or_none(tmp_path, trained, commands, chance, times, moments, name):
    (script, *arguments), count = WRITERS[name]
    arguments = [script, "--model", trained / "run", *arguments]
    if script != "predict":
        arguments += ["--prepared", trained / "prepared"]
    shutil.copytree(trained / "images", tmp_path / "images")
    code, seconds = commands.run(tmp_path, *arguments)
    assert code == 0, (tmp_path / "stderr").read_text()[-3000:]
    whole = outputs(tmp_path)
    printed = (tmp_path / "stdout").read_bytes()
    assert whole

    killed = moments(seconds)
    while killed.kills < times(count):
        old = {} if chance.random() < 0.5 else dict.fromkeys(whole, b"old")
        for path in whole:
            (tmp_path / path).unlink(missing_ok=True)
            if old:
                (tmp_path / path).write_bytes(old[path])
        killed.learn(*commands.run(tmp_path, *arguments, kill_after=killed.draw()))
        found = outputs(tmp_path)
        for path in whole:
            allowed = (whole[path], old.get(path), None if path == "out.xml" else old.get(path))
            assert found.get(path) in allowed, f"{path} is half written"
        if "out.xml" in found:  # no file is there whose other half is of another model
            assert found in (whole, old)

    assert commands.run(tmp_path, *arguments)[0] == 0
    assert outputs(tmp_path) == whole
    if script == "predict":
        assert (tmp_path / "stdout").read_bytes() == printed
    print(f"{name}: {killed.kills} kills")


@pytest.mark.slow
def test_preparing_killed_at_random_moments_ends_with_the_bytes_of_an_undisturbed_run(
    tmp_path, small_dataset, commands, chance, times, moments
):
    """Up to three kills before it is run to its end; a third of them also with a folder that is replaced."""
    options = ("prepare", "--dataset", small_dataset, "--formats", "array,beton,tar", "--workers", "2")
    code, seconds = commands.run(tmp_path, *options, "--out", tmp_path / "whole")
    assert code == 0, (tmp_path / "stderr").read_text()[-3000:]
    (whole,) = (tmp_path / "whole").glob("small-*")
    expected = tree(whole)
    names = sorted(path.name for path in whole.parent.iterdir())

    killed = moments(seconds)
    while killed.kills < times(5):
        arguments = (*options, "--out", tmp_path / "killed")
        if chance.random() < 1 / 3:
            assert commands.run(tmp_path, *arguments)[0] == 0
            arguments = (*arguments, "--force")
        for _ in range(chance.randint(1, 3)):
            alone = chance.random() < 0.5
            killed.learn(*commands.run(tmp_path, *arguments, kill_after=killed.draw(), main_alone=alone))
            for manifest in (tmp_path / "killed").glob("small-*/manifest.json"):
                assert tree(manifest.parent) == expected
        code, _ = commands.run(tmp_path, *arguments)
        assert code == 0, (tmp_path / "stderr").read_text()[-3000:]
        assert tree(tmp_path / "killed" / whole.name) == expected
        assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == names
        shutil.rmtree(tmp_path / "killed")
    print(f"prepare: {killed.kills} kills")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_killed_at_random_moments_and_resumed_ends_as_a_straight_one(
    tmp_path, trained, small_dataset, commands, chance, times, moments, processes
):
    """Each run is killed up to three times, also while it prepares. Of two processes, half the time their launcher."""
    options = ("train", *TRAIN, "--dataset", small_dataset, "--epochs", "4", "--processes", str(processes))
    whole = tmp_path / "whole"
    whole.mkdir()
    code, seconds = commands.run(whole, *options, "--prepared", trained / "prepared")
    assert code == 0, (whole / "stderr").read_text()[-3000:]
    (run,) = (whole / ".data/experiments").iterdir()
    check_whole(whole / ".data")
    expected = result(run)

    killed = moments(seconds)
    number = 0
    while killed.kills < times(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        prepared = folder / "prepared" if number % 4 == 0 else trained / "prepared"
        arguments = (*options, "--prepared", prepared, "--resume", "auto")
        for _ in range(chance.randint(1, 3)):
            alone = chance.random() < 0.5
            killed.learn(*commands.run(folder, *arguments, kill_after=killed.draw(), main_alone=alone))
            for place in (folder / ".data", folder / "prepared"):
                check_whole(place)
        assert commands.run(folder, *arguments)[0] == 0, (folder / "stderr").read_text()[-3000:]
        runs = [path for path in (folder / ".data/experiments").iterdir() if (path / "data/summary.json").is_file()]
        assert runs
        for run in runs:
            assert result(run) == expected
        shutil.rmtree(folder, ignore_errors=True)  # a process whose launcher was killed may still save
        number += 1
    print(f"training in {processes} processes: {killed.kills} kills")
