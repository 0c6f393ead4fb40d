"""Commands on odd machines end as they do elsewhere, and nothing that they write names the user or a secret."""

import fcntl
import functools
import json
import os
import pty
import resource
import shutil
import struct
import subprocess
import sys
import termios
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from forked_commands import ROOT, TRAIN, ForkedCommands
from helpers import encoded, noise, write_dataset

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


def close_streams():
    """No terminal, and no stdin at all."""
    os.setsid()
    os.close(0)


ODD = {
    "64 open files": {"preexec_fn": limit_files},
    "one core": {"preexec_fn": use_one_core},
    "locale C": {"env": {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0"}},
    "40 columns": {"env": {"COLUMNS": "40"}},
    "no HOME, no TMPDIR": {"env": {"HOME": None, "TMPDIR": None, "USER": None, "LOGNAME": None}},
    "a TMPDIR that is not there": {"env": {"TMPDIR": "/not/there"}},
    "no terminal": {"preexec_fn": close_streams},
}


@pytest.fixture(scope="module")
def predicted(trained, tmp_path_factory):
    """The output of an ordinary machine."""
    return predict(trained, tmp_path_factory.mktemp("ordinary")).stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_an_odd_machine_predicts_as_any_other(trained, predicted, name):
    options = dict(ODD[name])
    environment = dict(os.environ) | options.pop("env", {})
    environment = {key: value for key, value in environment.items() if value is not None}
    done = predict(trained, "/", env=environment, **options)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == predicted != ""


# As in a container under an id that no one has entered, with its own disk read-only: it may read what is
# root's, as the interpreter's folder may be closed to all others, and write nowhere but in its own folder.
STRANGER = 54321
AS_STRANGER = (
    *("setpriv", "--reuid", str(STRANGER), "--regid", str(STRANGER), "--clear-groups"),
    *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"),
)
CLOCK = """
import os, time

def jump(real, unit, calls=[0]):
    def read():
        calls[0] += 1
        return real() + unit * 86_400 * (0, 1, -1, 7)[calls[0] // 5 % 4]
    return read

time.time, time.time_ns = jump(time.time, 1), jump(time.time_ns, 10**9)
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A dataset of 48 images."""
    rows = [
        {"data": encoded(noise(n, 28, 28)), "label": "ab"[n % 2], "split": split, "width": 28, "height": 28}
        for n, split in enumerate(["train"] * 32 + ["validation"] * 8 + ["test"] * 8)
    ]
    return write_dataset(tmp_path_factory.mktemp("tiny") / "tiny", rows, ["a", "b"])


def train(folder, dataset, prefix=(), start=subprocess.run, **options):
    """Prepare and train for two epochs, with one thread for torch; return how it ended and the summary."""
    command = [*prefix, sys.executable, str(ROOT / "scripts/train.py"), "--dataset", str(dataset), "--seed", "3"]
    command += ["--device", "cpu", "--model", "resnet-small", "--batch-size", "16", "--epochs", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | options.pop("env", {})
    environment = {key: value for key, value in environment.items() if value is not None}
    done = start(command, cwd=folder, capture_output=True, text=True, timeout=600, env=environment, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    (summary,) = folder.glob(".data/experiments/*/data/summary.json")
    return done, json.loads(summary.read_text())


@pytest.fixture(scope="module")
def straight(tmp_path_factory, tiny):
    """The summary of a training on an ordinary machine."""
    return train(tmp_path_factory.mktemp("straight"), tiny)[1]


@pytest.mark.slow
def test_another_user_trains_where_code_and_home_are_closed(tmp_path, tiny, straight):
    if os.getuid() or not shutil.which("setpriv"):
        pytest.skip("only root with setpriv can become another user")
    for folder in (tiny, tmp_path):
        for above in (folder, *folder.parents[:3]):
            if above != Path("/tmp"):
                above.chmod(0o755)
    os.chown(tmp_path, STRANGER, STRANGER)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    os.chown(temporary, STRANGER, STRANGER)
    closed = {"HOME": "/root", "XDG_CACHE_HOME": None, "USER": None, "LOGNAME": None, "TMPDIR": str(temporary)}
    done, summary = train(tmp_path, tiny, AS_STRANGER, env=closed)
    assert "Traceback" not in done.stderr
    assert summary["model_id"] == straight["model_id"]
    assert any(temporary.rglob("*.nbi"))  # compiled code is kept for the next start


@pytest.mark.slow
def test_a_clock_that_jumps_by_days_changes_no_result(tmp_path, tiny, straight):
    """Every fifth look at the clock it jumps, forward and backward, in all processes."""
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock/sitecustomize.py").write_text(CLOCK)
    path = os.pathsep.join([str(tmp_path / "clock"), str(ROOT / "src")])
    _, summary = train(tmp_path, tiny, env={"PYTHONPATH": path})
    assert summary["model_id"] == straight["model_id"]
    for name in ("seconds_total", "seconds_training", "seconds_first_step"):
        assert 0 < summary[name] < 600, name


@pytest.mark.slow
def test_odd_locale_one_core_no_terminal_train_as_any_other(tmp_path, tiny, straight):
    def odd():
        close_streams()
        use_one_core()

    plain = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "HOME": None, "TMPDIR": None}
    _, summary = train(tmp_path, tiny, env=plain, preexec_fn=odd)
    assert summary["model_id"] == straight["model_id"]


def on_terminal(command, columns, cwd, env, **_):
    """Run a command on a terminal of some columns, and return how it ended."""
    main, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(command, cwd=cwd, env=env, stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    parts = []
    with suppress(OSError):  # the terminal is gone with the last process
        while part := os.read(main, 65536):
            parts.append(part)
    os.close(main)
    return subprocess.CompletedProcess(command, process.wait(600), "", b"".join(parts).decode())


@pytest.mark.slow
def test_a_narrow_terminal_breaks_no_live_line(tmp_path, tiny, straight):
    """Of a line that is broken at the edge, only the last part is written over."""
    narrow = functools.partial(on_terminal, columns=40)
    done, summary = train(tmp_path, tiny, start=narrow, env={"TERM": "xterm", "COLUMNS": None})
    assert summary["model_id"] == straight["model_id"]
    live = [part for part in done.stderr.split("\r\x1b[K")[1:] if "\n" not in part]
    print(len(live), "live lines")
    assert all(len(part) < 40 for part in live), live


@contextmanager
def memory_limit(name, limit):
    """A control group of version 1 or 2 whose processes have so many bytes of memory; yields its folder, or skips."""
    root = Path("/sys/fs/cgroup")
    is_second = (root / "cgroup.controllers").is_file()
    group = (root if is_second else root / "memory") / name
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        try:
            (group / ("memory.max" if is_second else "memory.limit_in_bytes")).write_text(str(limit))
        except OSError as error:
            pytest.skip(f"no memory can be limited here: {error}")
        yield group
    finally:
        group.rmdir()


@pytest.mark.slow
def test_photographs_are_prepared_and_trained_in_two_gigabytes(tmp_path):
    """Of a control group, which counts all processes; they see the whole memory of the machine as free."""
    with memory_limit(f"hardening-{os.getpid()}", 2 << 30) as group:
        command = [sys.executable, str(ROOT / "scripts/train.py"), "--dataset", str(ROOT / "samples/caltech-101")]
        command += ["--device", "cpu", "--epochs", "1", "--batch-size", "32", "--max-steps-per-epoch", "3"]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=900,
            preexec_fn=lambda: (group / "cgroup.procs").write_text("0"),
        )
        assert done.returncode == 0, done.stderr[-3000:]
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            if (group / name).is_file():
                print(f"{int((group / name).read_text()) / 1e6:,.0f} MB at most, with cached files")


@pytest.mark.slow
def test_paths_with_blanks_quotes_and_letters_of_any_language(tmp_path, trained, commands):
    """From preparing to the report."""
    folder = tmp_path / "a 'quoted' \"name\" — Å日本 $HOME %s {x}"
    folder.mkdir()
    dataset = shutil.copytree(ROOT / "samples/mnist", folder / "the data")
    prepared = ("--prepared", folder / "prepared")
    shutil.copytree(trained / "images", folder / "images")

    def run_all(*steps):
        for step in steps:
            code, _ = commands.run(folder, *step)
            assert code == 0, (step, (folder / "stderr").read_text()[-3000:])

    run_all(
        ("prepare", "--dataset", dataset, "--out", folder / "prepared", "--formats", "array,beton,tar"),
        ("train", "--dataset", dataset, *prepared, "--epochs", "1", *TRAIN),
    )
    (found,) = (folder / ".data/experiments").iterdir()
    assert (found / "data/report.html").is_file()
    assert "No report" not in (folder / "stderr").read_text()
    run_all(
        ("predict", "--device", "cpu", "--model", found, folder / "images", "--embeddings", folder / "é e.npy"),
        ("evaluate", "--device", "cpu", "--model", found, *prepared, "--json-file", "e 'e'.json"),
        ("export", "--model", found, *prepared, "--output", folder / "ü m.onnx"),
        ("export", "--model", found, *prepared, "--format", "openvino", "--output", folder / "ü m.xml"),
        ("export", "--model", found, *prepared, "--format", "torch-export", "--output", folder / "ü m.pt2"),
        ("explain", found / "model/model.pth"),
    )


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
