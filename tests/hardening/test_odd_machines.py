"""Commands on odd machines end as they do elsewhere, and nothing that they write names the user or a secret."""

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest

from forked_commands import ROOT, TRAIN, ForkedCommands

SECRETS = {
    "HOME": "/tmp/home-of-planted-user",
    "USER": "planted-user",
    "LOGNAME": "planted-user",
    "HAFNIA_API_KEY": "planted-key",
    "AWS_SECRET_ACCESS_KEY": "planted-secret",
    "HF_TOKEN": "planted-token",
    "MLFLOW_TRACKING_PASSWORD": "planted-password",
}


def run(script, *arguments, cwd, **options):
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, **options)


def predict(trained, folder, **options):
    arguments = ("--device", "cpu", "--model", trained / "run", "--top-k", "3", trained / "images")
    return run("predict", *arguments, cwd=folder, **options)


def limit_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def use_one_core():
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])


def become_nobody():
    os.setgid(65534)
    os.setuid(65534)


ODD = {
    "64 open files": {"preexec_fn": limit_files},
    "one core": {"preexec_fn": use_one_core},
    "locale C": {"env": {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0"}},
    "40 columns": {"env": {"COLUMNS": "40"}},
    "no HOME, no TMPDIR": {"env": {"HOME": None, "TMPDIR": None, "USER": None, "LOGNAME": None}},
    "a TMPDIR that is not there": {"env": {"TMPDIR": "/not/there"}},
    "another user": {"preexec_fn": become_nobody},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_an_odd_machine_predicts_as_any_other(tmp_path, trained, name):
    options = dict(ODD[name])
    environment = dict(os.environ) | options.pop("env", {})
    environment = {key: value for key, value in environment.items() if value is not None}
    if name == "another user":
        if os.getuid():
            pytest.skip("only root can become another user")
        for folder in (trained, *trained.parents[:2]):
            folder.chmod(0o755)
    try:
        done = predict(trained, "/", env=environment, **options)
    except PermissionError:
        pytest.skip("the interpreter is in a folder that is closed to other users")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == predict(trained, tmp_path).stdout


@pytest.mark.slow
def test_paths_with_blanks_quotes_and_letters_of_any_language(tmp_path, trained, commands):
    folder = tmp_path / "a 'quoted' \"name\" — Å日本 $HOME %s {x}"
    folder.mkdir()
    dataset = shutil.copytree(ROOT / "samples/mnist", folder / "the data")
    options = ("--dataset", dataset, "--prepared", folder / "prepared", "--epochs", "1", *TRAIN)
    code, _ = commands.run(folder, "train", *options)
    assert code == 0, (folder / "stderr").read_text()[-3000:]
    (found,) = (folder / ".data/experiments").iterdir()
    shutil.copytree(trained / "images", folder / "images")
    for arguments in (
        ("predict", "--device", "cpu", "--model", found, folder / "images", "--embeddings", folder / "e.npy"),
        ("evaluate", "--device", "cpu", "--model", found, "--prepared", folder / "prepared", "--json-file", "e.json"),
    ):
        code, _ = commands.run(folder, *arguments)
        assert code == 0, (folder / "stderr").read_text()[-3000:]


@pytest.mark.slow
def test_nothing_that_is_written_has_a_secret_or_the_users_name(tmp_path, monkeypatch):
    """In the environment, and in the paths of dataset, prepared datasets and outputs."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    private = tmp_path / "planted-user-folder"
    private.mkdir()
    dataset = shutil.copytree(ROOT / "samples/mnist", private / "mnist")
    commands = ForkedCommands()
    try:
        options = ("--dataset", dataset, "--prepared", private / "prepared", "--output-dir", private / "outputs")
        code, _ = commands.run(private, "train", *options, "--epochs", "1", *TRAIN)
        assert code == 0, (private / "stderr").read_text()[-3000:]
        (found,) = (private / "outputs/experiments").iterdir()
        results = tmp_path / "results"
        results.mkdir()
        options = ("--model", found, "--prepared", private / "prepared")
        for arguments in (
            ("evaluate", *options, "--json-file", results / "e.json"),
            ("export", *options, "--format", "torch-export", "--output", results / "model.pt2"),
        ):
            code, _ = commands.run(private, *arguments)
            assert code == 0, (private / "stderr").read_text()[-3000:]
    finally:
        commands.close()
    # A run is resumed by the paths in its last.pth, which stays on the machine.
    written = [path for path in [*found.rglob("*"), *results.rglob("*")] if path.is_file() and path.name != "last.pth"]
    assert len(written) > 10
    for path in written:
        assert b"planted" not in path.read_bytes(), path


@pytest.mark.slow
def test_prepare_and_train_stay_below_a_bound_of_memory(tmp_path):
    """Peak resident memory of the largest process: 1,200 MB."""
    code = (
        "import json, resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:]).returncode\n"
        "print(json.dumps([done, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))"
    )
    script = [sys.executable, str(ROOT / "scripts/train.py"), "--dataset", str(ROOT / "samples/caltech-101")]
    options = ("--device", "cpu", "--epochs", "1", "--batch-size", "32", "--max-steps-per-epoch", "3")
    command = [*script, "--prepared", str(tmp_path / "prepared"), *options]
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True)
    ended, megabytes = json.loads(done.stdout.splitlines()[-1])
    assert ended == 0, done.stderr[-2000:]
    print(f"{megabytes:.0f} MB")
    assert megabytes < 1_200
