"""The disk is full from some write on, or for one write, and is freed: nothing half written is taken for whole.

A library in C, loaded before all others, lets a write or flush fail, in all processes of a command. Five writes
of each command are tried with HARDENING_COUNT=1. Prepare and train make some 1,200 each; 2 and 4 are all of predict and
evaluate.
"""

import mmap
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from forked_commands import TRAIN, ForkedCommands
from hardening.conftest import needs_whole_count
from hardening.written_files import check_whole, outputs, result
from helpers import tree

NEVER = 1 << 62
FULL = re.compile(r"^Error: (?:The disk is full|.*is the disk full\?)", re.MULTILINE)  # OpenVINO does not say why
# Files of the SDK's logger, which may fail without a word in the exit code.
TRACKER = {f"data/{name}" for name in ("experiment.parquet", "configuration.json", "environment.json")}
TRACKER.add("model/HOW_TO_STORE_YOUR_MODEL.txt")
EXPORTS = {"onnx": "onnx", "openvino": "xml", "torch-export": "pt2"}


class FullDisk:
    """A folder whose files cannot be written as long as it is said.

    Args:
        base: gets the folder `full`.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.folder = base / "full"
        self.folder.mkdir()
        library = base / "full_disk.so"
        source = Path(__file__).with_name("full_disk.c")
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        control = base / "control"
        control.write_bytes(struct.pack("3q", 0, NEVER, NEVER))
        with control.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), 24)
        self._commands = ForkedCommands(
            LD_PRELOAD=str(library), FULL_DISK_FOLDER=f"{self.folder}/", FULL_DISK_CONTROL=str(control)
        )

    def run(self, *arguments, first=NEVER, count=NEVER) -> tuple[int, int, str]:
        """Run a command while writes fail.

        Args:
            arguments: name of the script and its arguments.
            first: number of the write that fails first.
            count: how many fail.

        Returns:
            Its exit code, the number of writes, and stderr.
        """
        self._control[:] = struct.pack("3q", 0, first, min(first + count, NEVER))
        code, _ = self._commands.run(self.base, *arguments)
        return code, struct.unpack("3q", self._control[:])[0], (self.base / "stderr").read_text()

    def clear(self) -> None:
        """Delete what is in the folder."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def close(self) -> None:
        self._commands.close()
        self._control.close()


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    full = FullDisk(tmp_path_factory.mktemp("disk"))
    yield full
    full.close()


def fill(disk, arguments, chance, times, prepare, check, check_end):
    """Run a command again and again, each time with another write that fails, and return what went wrong.

    The writes are spread evenly.

    Args:
        arguments: of the command.
        prepare: called before each run, with an empty folder.
        check: raises AssertionError if a file is half written.
        check_end: raises AssertionError unless everything is written, and right.
    """
    disk.clear()
    prepare()
    code, writes, errors = disk.run(*arguments)
    assert code == 0, errors
    check_end()
    assert writes

    wrong = []
    tries = min(writes, times(5))
    numbers = [chance.randrange(n * writes // tries, (n + 1) * writes // tries) for n in range(tries)]
    for number in numbers:
        count = NEVER if chance.random() < 0.5 else 1
        disk.clear()
        prepare()
        code, _, errors = disk.run(*arguments, first=number, count=count)
        step = "full"
        try:
            assert "Traceback" not in errors
            assert code in (0, 2)
            assert len(FULL.findall(errors)) == (code == 2)
            check()
            if code == 0:
                check_end()
            step = "freed"
            code, _, errors = disk.run(*arguments)
            assert code == 0
            assert "Traceback" not in errors
            check_end()
        except (AssertionError, ValueError) as problem:
            wrong.append(f"write {number}, {count}, {step}: {code} {problem}\n{errors[-1500:]}")
    print(f"{arguments[0]}: {len(numbers)} of {writes} writes")
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_prepare(disk, small_dataset, chance, times, workers):
    whole = {}

    def folders():
        return [path.parent for path in disk.folder.glob("small-*/manifest.json")]

    def check():
        assert all(tree(folder) == whole for folder in folders())

    def check_end():
        (folder,) = folders()
        whole.update({} if whole else tree(folder))
        assert tree(folder) == whole
        found = {path.name for path in disk.folder.iterdir()}
        names.update(set() if names else found)
        assert found <= names  # what only saves time may be missing

    names = set()
    options = ("prepare", "--dataset", small_dataset, "--formats", "array,beton,tar", "--workers", workers)
    options = (*options, "--out", disk.folder)
    assert fill(disk, options, chance, times, lambda: None, check, check_end) == []


@pytest.mark.slow
def test_train(disk, trained, small_dataset, chance, times):
    expected = []

    def check():
        check_whole(disk.folder)
        assert not list(disk.folder.rglob("*.tmp"))

    def check_end():
        check()
        runs = sorted(path.parents[1] for path in disk.folder.glob("experiments/*/data/summary.json"))
        expected.extend([] if expected else [(result(runs[0]), names(runs[0]))])
        assert (result(runs[-1]), names(runs[-1])) == expected[0]

    def names(run):
        files = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
        return [name for name in files if name not in TRACKER]

    options = ("train", *TRAIN, "--dataset", small_dataset, "--prepared", trained / "prepared", "--epochs", "2")
    options = (*options, "--output-dir", disk.folder, "--resume", "auto")
    assert fill(disk, options, chance, times, lambda: None, check, check_end) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("predict", "evaluate", "torch-export"),
        pytest.param("onnx", marks=needs_whole_count),
        pytest.param("openvino", marks=needs_whole_count),
    ],
)
def test_what_writes_files_by_name(disk, trained, chance, times, name):
    whole = {}
    out = disk.folder / "out"
    arguments = {
        "predict": ("--device", "cpu", "--embeddings", f"{out}.npy", trained / "images"),
        "evaluate": ("--device", "cpu", "--json-file", f"{out}.json", "--csv-file", f"{out}.csv"),
    } | {kind: ("--format", kind, "--output", f"{out}.{suffix}") for kind, suffix in EXPORTS.items()}
    script = name if name in ("predict", "evaluate") else "export"
    place = () if script == "predict" else ("--prepared", trained / "prepared")

    def prepare():
        for path in whole:
            (disk.folder / path).write_bytes(b"old")

    def check():
        assert {path.name for path in disk.folder.iterdir()} <= {*whole}
        for path, content in outputs(disk.folder).items():
            assert content in (whole[path], b"old")

    def check_end():
        whole.update({} if whole else outputs(disk.folder))
        assert outputs(disk.folder) == whole
        assert len(list(disk.folder.iterdir())) == len(whole)

    options = (script, "--model", trained / "run", *arguments[name], *place)
    assert fill(disk, options, chance, times, prepare, check, check_end) == []
