"""Change one operator or constant at a time and count which changes the unit tests notice.

python tests/hardening/mutate.py [plan ...] [--count 30]

Each change is made in a process of its own, forked from one that has imported the libraries, and never on the disk.
Only the tests that run its line are run there: a change costs seconds. What runs when the module is imported concerns
all tests: those of a second or less are run. A change that does not end in time counts as late, not as noticed.
HARDENING_SEED chooses the changes.
"""

import argparse
import ast
import copy
import importlib.machinery
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/trainer_classification"
# Module -> the files of tests that concern it, of tests/unit where no other folder is named.
TESTS = {
    "plan": ("plan", "crop_boxes", "augment", "evaluation_view"),
    "files": ("files", "file_places"),
    "faster_precision": ("cpu_precision",),
    "data/block_runs": ("block_runs",),
    "data/manifest": ("manifest", "damage"),
    "data/plain_png": ("plain_png",),
    "data/png_chunks": ("tar",),
    "data/remote_images": ("storage", "block_runs"),
    "data/sparse_file": ("storage", "block_runs"),
    "loaders/shrink": ("shrink",),
    "checkpoint/archive": ("archive", "weights", "load_model", "resume_options"),
    "checkpoint/file": ("weights", "training", "load_model", "find_newest"),
    "checkpoint/foreign_stem": ("archive", "load_model"),
    "checkpoint/load_model": ("load_model", "archive", "evaluation_view"),
    "checkpoint/meta": ("weights", "training", "load_model", "resume_options", "evaluation_view", "find_newest"),
    "checkpoint/weights": ("weights", "archive", "load_model"),
    "kernels/crops": ("engines/ffcv",),
    "kernels/draws": ("crop_boxes",),
    "kernels/jpeg": ("jpeg",),
    "kernels/planes": ("jpeg", "large_jpeg", "decode", "stored_planes"),
    "kernels/png": ("plain_png",),
    "kernels/resize": ("decode", "augment"),
    "kernels/turbojpeg": ("engines/ffcv",),
    "preparation/remote_assembly": ("remote_assembly",),
}
LIBRARIES = (
    "torch",
    "torchvision",
    "numba",
    "polars",
    "PIL.Image",
    "hypothesis",
    "xxhash",
    "simplejpeg",
    "cyclopts",
    "rich.progress",
)
SECONDS = 300  # until a change of a kernel counts as late
SECONDS_UNCOMPILED = 120
QUICK = 1.0  # CPU seconds of a test
SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn,
    ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
}  # fmt: skip


def places(tree: ast.AST) -> list[tuple[ast.AST, str, int]]:
    """List what can be changed: (node, attribute, index in it or -1)."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
            found.append((node, "op", -1))
        elif isinstance(node, ast.Compare):
            found += [(node, "ops", number) for number, op in enumerate(node.ops) if type(op) in SWAPS]
        elif isinstance(node, ast.Constant) and isinstance(node.value, int):
            found.append((node, "value", -1))
    return found


def mutate(source: str, number: int) -> tuple[ast.AST, range, str]:
    """Return the module with the change of a number, the lines of what is changed, and a description."""
    tree = ast.parse(source)
    node, name, index = places(tree)[number]
    before = copy.deepcopy(node)
    if name == "ops":
        node.ops[index] = SWAPS[type(node.ops[index])]()
    elif name == "op":
        node.op = SWAPS[type(node.op)]()
    else:
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1
    line = source.splitlines()[node.lineno - 1].strip()
    text = f"line {node.lineno}: {ast.unparse(before)} -> {ast.unparse(node)}   in: {line[:90]}"
    return tree, range(node.lineno, (node.end_lineno or node.lineno) + 1), text


class MutatedLoader(importlib.machinery.SourceFileLoader):
    """Loads a module from its changed tree, and finds it for `import`."""

    def __init__(self, name: str, path: Path, tree: ast.AST) -> None:
        super().__init__(name, str(path))
        self._tree = tree

    def get_code(self, fullname):
        return compile(self._tree, self.path, "exec")

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None


class LineTrace:
    """A plugin of pytest that notes which tests run which line of a module."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._test = ""  # while modules are imported
        self.tests: dict[int, set[str]] = {}
        self.seconds: dict[str, float] = {}

    def trace(self, frame, event, argument):
        if frame.f_code.co_filename != self._path:
            return None
        self.tests.setdefault(frame.f_lineno, set()).add(self._test)
        return self.trace

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item, nextitem):
        self._test = item.nodeid
        sys.settrace(self.trace)
        started = time.process_time()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.process_time() - started


class Selection:
    """A plugin of pytest that runs some tests only."""

    def __init__(self, tests: set[str]) -> None:
        self._tests = tests

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if item.nodeid in self._tests]


def run_tests(files: list[str], plugin: object) -> int:
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis is imported already
    return int(pytest.main([*options, *files], plugins=[plugin]))


def in_child(function, seconds: float) -> bytes | None:
    """Return what a function returns in a forked process that prints nothing; None if that is killed, or late."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        try:
            os.write(writer, function())
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode()[:500])
        os._exit(0)
    os.close(writer)
    timer = threading.Timer(seconds, os.killpg, (child, signal.SIGKILL))
    timer.start()
    with os.fdopen(reader, "rb") as answer:
        content = answer.read()
    os.waitpid(child, 0)
    timer.cancel()
    return content or None


def trace_module(path: Path, files: list[str]) -> tuple[dict[int, set[str]], set[str]]:
    """Return the tests that run each line of a module, "" for its import, and those that are quick."""
    written = Path(tempfile.mkdtemp()) / "lines"

    def trace() -> bytes:
        tracer = LineTrace(path)
        threading.settrace(tracer.trace)
        sys.settrace(tracer.trace)
        code = run_tests(files, tracer)
        sys.settrace(None)
        quick = [test for test, seconds in tracer.seconds.items() if seconds <= QUICK]
        written.write_text(json.dumps([{line: sorted(tests) for line, tests in tracer.tests.items()}, quick]))
        return str(code).encode()

    answer = in_child(trace, 10 * SECONDS)
    assert answer == b"0", f"the tests of {path} fail as it is: {answer}"
    lines, quick = json.loads(written.read_text())
    shutil.rmtree(written.parent)
    return {int(line): set(tests) for line, tests in lines.items()}, set(quick)


def try_change(name: str, path: Path, tree: ast.AST, files: list[str], tests: set[str] | None, kernels: Path) -> str:
    """Return whether a test fails with the changed module: killed, survived, or late."""
    ast.fix_missing_locations(tree)

    def test() -> bytes:
        if "kernels" in path.parts:
            import numba

            numba.config.CACHE_DIR = str(kernels)
        sys.meta_path.insert(0, MutatedLoader(name, path, tree))
        return str(run_tests(files, Selection(tests) if tests is not None else object())).encode()

    started = time.monotonic()
    seconds = SECONDS if "kernels" in path.parts else SECONDS_UNCOMPILED
    answer = in_child(test, seconds)
    assert answer in (None, b"0", b"1", b"2"), answer.decode()  # 2: a module could not be imported
    if answer is None and time.monotonic() - started >= seconds:
        return "late"
    return "survived" if answer == b"0" else "killed"


def forget_compiled(folder: Path, module: str) -> None:
    """Delete the compiled code of a module and of whatever imports it, in numba's cache."""
    stale = {module.rpartition("/")[2]}
    for _ in range(3):  # what imports those that import it
        for path in PACKAGE.rglob("*.py"):
            lines = re.findall(r"^from trainer_classification\..*", path.read_text(), re.MULTILINE)
            if stale & set(re.findall(r"\w+", " ".join(lines))):
                stale.add(path.stem)
    for path in folder.rglob("*.nb?"):
        if path.name.split(".")[0] in stale:
            path.unlink()


def attack(module: str, count: int) -> tuple[int, int]:
    """Print which changes of a module are noticed; return how many of how many."""
    path = PACKAGE / f"{module}.py"
    name = "trainer_classification." + module.replace("/", ".")
    parts = [test.rpartition("/") for test in TESTS[module]]
    files = [f"tests/{folder or 'unit'}/test_{test}.py" for folder, _, test in parts]
    source = path.read_text()
    numbers = range(len(places(ast.parse(source))))
    chance = random.Random(int(os.environ.get("HARDENING_SEED", "34")))
    chosen = sorted(chance.sample(numbers, min(count, len(numbers))))
    is_compiled = "kernels" in path.parts
    lines, quick = ({}, set()) if is_compiled else trace_module(path, files)
    kernels = Path(tempfile.mkdtemp())
    if is_compiled:
        unchanged = try_change(name, path, ast.parse(source), files, None, kernels)
        assert unchanged == "survived", f"the tests of {module} fail as it is: {unchanged}"
    killed = 0
    for number in chosen:
        tree, changed, text = mutate(source, number)
        tests = set().union(*(lines.get(line, set()) for line in changed)) if lines else None
        started = time.monotonic()
        if tests == set():
            end = "survived"
            text += "   (no test runs it)"
        else:
            compiled = kernels
            if is_compiled:
                compiled = Path(tempfile.mkdtemp())
                shutil.copytree(kernels, compiled, dirs_exist_ok=True)
                forget_compiled(compiled, module)
            tests = quick if tests and "" in tests else tests
            end = try_change(name, path, tree, files, tests, compiled)
            if is_compiled:
                shutil.rmtree(compiled)
        killed += end == "killed"
        print(f"{end:8} {time.monotonic() - started:4.0f} s  {text}", flush=True)
    shutil.rmtree(kernels)
    print(f"{module}: {killed} of {len(chosen)} killed, of {len(numbers)} that there are", flush=True)
    return killed, len(chosen)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="module", help=", ".join(TESTS))
    parser.add_argument("--count", type=int, default=30, help="changes of each module")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT / "src"))
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = tempfile.mkdtemp()
    for library in LIBRARIES:
        with suppress(ImportError):
            __import__(library)
    for module in options.modules or TESTS:
        attack(module, options.count)
    shutil.rmtree(os.environ["HYPOTHESIS_STORAGE_DIRECTORY"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
