"""The generators of ../shared/cases/datasets: each makes a dataset, and a command meets it."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from workbench import GENERATORS, ROOT, Case, Done, Workbench, found_of

CASES: list[Case] = []
FACT = tuple[bool, str]
# Stands in for a user id without a name, which needs another user otherwise: Python looks for this file at its start.
NAMELESS = """
import os, pwd
def getpwuid(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
"""
# Reads a checkpoint and prints whether all of its weights are finite.
FINITE = """
import sys, torch
def finite(x):
    if isinstance(x, dict): return all(map(finite, x.values()))
    if isinstance(x, (list, tuple)): return all(map(finite, x))
    return bool(torch.isfinite(x).all()) if torch.is_tensor(x) and x.is_floating_point() else True
print("finite" if finite(torch.load(sys.argv[1], weights_only=True)) else "not finite")
"""


def case(
    name: str, expected: str, limit: float = 300
) -> Callable[[Callable[[Workbench], FACT]], Callable[[Workbench], FACT]]:
    """Add a function to the cases."""

    def add(check: Callable[[Workbench], FACT]) -> Callable[[Workbench], FACT]:
        CASES.append(Case(name, expected, check, limit))
        return check

    return add


def _refused(done: Done, *words: str) -> FACT:
    """Whether a command ended with a sentence that has all the words, and exit code 2."""
    missing = [word for word in words if word.lower() not in done.text.lower()]
    lacks = f" (lacks {', '.join(missing)})" if missing else ""
    return done.code == 2 and not done.crashed and not missing, done.last + lacks


def _is_said(done: Done, pattern: str) -> FACT:
    found = re.search(pattern, done.text, re.IGNORECASE)
    return bool(found), f"said: {found[0]}" if found else "nothing said of it"


def _worked(done: Done) -> FACT:
    return done.code == 0, done.last


@case("tie_keeps_the_earliest", "no later epoch has the validation accuracy of the kept one", limit=600)
def _tie(workbench: Workbench) -> FACT:
    workbench.generate("tie_keeps_the_earliest", str(ROOT / "samples/mnist"))
    done = workbench.run(*workbench.train_command("out/tie", "--epochs", "14", quick=False))
    if done.code != 0:
        return False, done.last
    run = workbench.runs()[-1]
    kept = workbench.summary(run)["best_epoch"]
    accuracies = [row["accuracy_validation"] for row in workbench.metrics(run)]
    later = [n for n, accuracy in enumerate(accuracies, 1) if n > kept and accuracy >= accuracies[kept - 1]]
    return not later, f"epoch {kept} kept, as good on validation: {later or 'no later one'}"


@case("nan_is_best", "exit 2, no model of NaN, valid JSON")
def _nan(workbench: Workbench) -> FACT:
    workbench.generate("nan_is_best")
    done = workbench.train("out/nan_is_best", "--epochs", "2", "--batch-size", "25", "--learning-rate", "1e20")
    facts = [(done.code == 2 and not done.crashed, done.last)]
    for path in workbench.folder.rglob("*.jsonl"):
        valid = not re.search(r"\bNaN\b|\bInfinity\b", path.read_text())
        facts.append((valid, f"{path.name} is {'valid' if valid else 'no JSON'}"))
    for path in [*workbench.folder.rglob("model.pth"), *workbench.folder.rglob("best.pth")]:
        said = workbench.run(sys.executable, "-c", FINITE, str(path)).text.strip()
        facts.append((said == "finite", f"{path.name}: weights {said}"))
    return found_of(facts)


@case("same_folder_name", "exit 0, tested on its own images: 90 % or more", limit=600)
def _same_folder(workbench: Workbench) -> FACT:
    workbench.generate("same_folder_name")
    first = workbench.start(*workbench.train_command("out/A/data", "--epochs", "60"), log="first")
    try:
        while not re.search(r"epoch", (workbench.folder / "first").read_text(), re.IGNORECASE) and first.poll() is None:
            time.sleep(0.2)
            assert time.monotonic() < workbench.deadline, "the first run did not begin"
        second = workbench.run(*workbench.train_command("out/B/data", "--epochs", "1"))
        overlapped = first.poll() is None
        done = workbench.wait(first, "first")
    finally:
        workbench.kill(first)
    if done.code != 0:
        return False, done.last
    accuracies = {
        round(workbench.summary(run)["accuracy_test"], 3) for run in workbench.runs() if len(workbench.metrics(run)) > 1
    }
    facts = [_worked(second), (overlapped, "the runs did not overlap, so nothing was checked")]
    facts.append((bool(accuracies) and min(accuracies) >= 0.9, f"test accuracy {accuracies}"))
    right, text = found_of(facts)
    return right, f"test accuracy {accuracies}" if right else text


@case("same_second", "four runs begun at once have four folders")
def _same_second(workbench: Workbench) -> FACT:
    workbench.make("make.folder('out/same_second')")
    prepared = workbench.train("out/same_second", "--stop-early")
    if prepared.code != 0:
        return False, prepared.last
    before = len(workbench.runs())
    commands = [workbench.train_command("out/same_second", "--stop-early", "--seed", str(seed)) for seed in range(4)]
    running = [workbench.start(*command, log=f"log{number}") for number, command in enumerate(commands)]
    ended = [workbench.wait(process, f"log{number}") for number, process in enumerate(running)]
    folders = len(workbench.runs()) - before
    return found_of([*map(_worked, ended), (folders == 4, f"{folders} folders of 4 runs")])


@case("mirrored_classes", "the recipe's line names flips, grey alike at any size", limit=400)
def _mirrored(workbench: Workbench) -> FACT:
    workbench.generate("mirrored_classes")
    facts = []
    flips = {}
    for name in ("arrows", "arrows_grey", "arrows_grey_80"):
        done = workbench.train(f"out/{name}", "--stop-early")
        said = re.search(r"[^.;,\n]*\bflip\w*[^.;,\n]*", done.text, re.IGNORECASE)
        flips[name] = bool(said) and not re.search(r"\b(no|none|off|without|not)\b", said[0], re.IGNORECASE)
        facts += [_worked(done), (bool(said), f"{name}: {said[0].strip() if said else 'no word of flips'}")]
    facts.append((flips["arrows_grey"] == flips["arrows_grey_80"], "grey of 32 and of 80 px are not alike"))
    return found_of(facts)


@case("same_image_two_labels", "named: the images that lie under both classes")
def _two_classes(workbench: Workbench) -> FACT:
    workbench.generate("same_image_two_labels")
    done = workbench.train("out/same_image_two_labels", "--stop-early")
    return _is_said(done, r".*c\d\.jpg.*|.*(two|several|different|both|conflicting) (labels|classes).*")


@case("class_without_train", "a note names the class b that train lacks")
def _class_without_train(workbench: Workbench) -> FACT:
    workbench.generate("class_without_train")
    done = workbench.train("out/class_without_train", "--stop-early")
    return _is_said(done, r"(?=.*\bb\b)(?=.*\btrain\b)(?=.*(lack|without|miss|only|no image|none|not in)).*")


@case("class_without_train: one_class", "a note: one class only")
def _one_class(workbench: Workbench) -> FACT:
    workbench.generate("class_without_train")
    done = workbench.train("out/one_class", "--stop-early")
    return _is_said(done, r".*\b(one|single|1) class\b.*|.*only class\b.*")


@case(
    "resume_without_optimizer", "best.pth and model.pth: exit 2, --weights named; another seed is compared", limit=400
)
def _resume(workbench: Workbench) -> FACT:
    workbench.generate("resume_without_optimizer")
    first = workbench.train("out/resume", "--epochs", "3", "--seed", "1")
    if first.code != 0:
        return False, first.last
    facts = []
    for name in ("best.pth", "model.pth"):
        path = next(iter(sorted(workbench.folder.rglob(name))))
        right, text = _refused(workbench.train("out/resume", "--epochs", "3", "--resume", str(path)), "--weights")
        facts.append((right, f"{name}: {text}"))
    last = next(iter(sorted(workbench.folder.rglob("last.pth"))))
    done = workbench.train("out/resume", "--epochs", "3", "--resume", str(last), "--seed", "2")
    facts.append((not done.crashed and done.says("seed"), f"other seed: {done.last}"))
    return found_of(facts)


@case("silently_left_out", "each image used, or its ending counted in a line")
def _silently(workbench: Workbench) -> FACT:
    workbench.generate("silently_left_out")
    prepared = workbench.prepare("out/silently_left_out")
    if not prepared.manifest:
        return False, prepared.done.last
    groups = {
        ".webp": ("w0.webp", r"\.?webp"),
        ".jfif": ("j0.jfif", r"\.?jfif"),
        "no ending": ("noending0", r"(no|without( a)?) (suffix|ending|extension)|noending"),
        ".ppm": ("p0.ppm", r"\.?ppm"),
        "a linked folder": ("e0.jpg", r"\blink|more\b"),
        "beside the classes": ("loose0.jpg", r"loose|beside|outside|no class|without a class"),
    }
    facts = []
    for group, (name, pattern) in groups.items():
        said = re.search(pattern, prepared.done.text, re.IGNORECASE) is not None
        facts.append((prepared.used(name) or said, f"{group}: neither used nor said"))
    right, text = found_of(facts)
    return right, f"{prepared.count('train', 'validation')} images used or said" if right else text


@case("silently_left_out: webp_only", "all 60 images used")
def _webp_only(workbench: Workbench) -> FACT:
    workbench.generate("silently_left_out")
    prepared = workbench.prepare("out/webp_only")
    return prepared.count() == 60, f"{prepared.count()} used; {prepared.done.last}"


@case("hidden_folder", "no class of it, a line about it")
def _hidden(workbench: Workbench) -> FACT:
    workbench.generate("hidden_folder")
    prepared = workbench.prepare("out/hidden_folder")
    classes = prepared.manifest.get("class_names")
    said = _is_said(prepared.done, r".*(\.ipynb_checkpoints|hidden).*")
    return found_of([_worked(prepared.done), (classes == ["cat", "dog"], f"classes {classes}"), said])


def _nested(workbench: Workbench, name: str, image: str) -> FACT:
    """The class is the folder below the split, or a sentence names the path."""
    workbench.generate("nested_folder")
    prepared = workbench.prepare(f"out/{name}")
    if prepared.done.code == 2:
        return _refused(prepared.done, image.rpartition("/")[0])
    labels = {label for files in prepared.files.values() for file, label in files.items() if file.endswith(image)}
    return found_of([_worked(prepared.done), (labels == {"cat"}, f"its class: {sorted(labels) or 'not used'}")])


@case("nested_folder: nested_unknown", "class cat, or a sentence that names the path")
def _nested_unknown(workbench: Workbench) -> FACT:
    return _nested(workbench, "nested_unknown", "cat/session1/x.jpg")


@case("nested_folder: nested_named", "class cat, or a sentence that names the path")
def _nested_named(workbench: Workbench) -> FACT:
    return _nested(workbench, "nested_named", "cat/unsure/x.jpg")


@case("nested_folder: nested_like_image", "class cat, or a sentence that names the path")
def _nested_like_image(workbench: Workbench) -> FACT:
    return _nested(workbench, "nested_like_image", "cat/album.jpg/x.jpg")


@case("empty_split", "validation is cut from train, a note about val")
def _empty_split(workbench: Workbench) -> FACT:
    workbench.generate("empty_split")
    prepared = workbench.prepare("out/empty_split")
    cut = prepared.count("validation")
    facts = [
        _worked(prepared.done),
        (cut > 0 and prepared.count() == 50, f"{cut} validation, {prepared.count()} in all"),
    ]
    return found_of([*facts, _is_said(prepared.done, r".*\bval\b.*")])


def _bad_image(workbench: Workbench, dataset: str, name: str, count: int) -> FACT:
    """The image is left out and named, the others are used."""
    prepared = workbench.prepare(dataset)
    if not prepared.manifest:
        return False, prepared.done.last
    used = prepared.count()
    facts = [(used == count, f"{used} of {count} used"), (prepared.left_out(name), f"{name} is not named")]
    right, text = found_of(facts)
    return right, f"{name} named, {used} used" if right else text


@case("huge_image", "left out and named")
def _huge(workbench: Workbench) -> FACT:
    workbench.generate("huge_image")
    return _bad_image(workbench, "out/huge_image", "big.png", 140)


@case("unreadable_in_folder: apple", "no image at all: left out and named")
def _apple(workbench: Workbench) -> FACT:
    workbench.generate("unreadable_in_folder")
    return _bad_image(workbench, "out/unreadable_apple", "._000.jpg", 420)


@case("unreadable_in_folder: empty", "a bad image: left out and named")
def _empty(workbench: Workbench) -> FACT:
    workbench.generate("unreadable_in_folder")
    return _bad_image(workbench, "out/unreadable_empty", "bad.jpg", 420)


@case("unreadable_in_folder: page", "a bad image: left out and named")
def _page(workbench: Workbench) -> FACT:
    workbench.generate("unreadable_in_folder")
    return _bad_image(workbench, "out/unreadable_page", "bad.jpg", 420)


@case("unreadable_in_folder: link", "a bad image: left out and named")
def _link(workbench: Workbench) -> FACT:
    workbench.generate("unreadable_in_folder")
    return _bad_image(workbench, "out/unreadable_link", "x.jpg", 420)


def _faulty(workbench: Workbench, name: str, *words: str) -> FACT:
    workbench.generate("table_faults")
    return _refused(workbench.prepare(f"out/{name}").done, *words)


@case("table_faults: null split", "exit 2, a sentence with annotations.parquet and train_0_000")
def _null_split(workbench: Workbench) -> FACT:
    return _faulty(workbench, "table_null_split", "annotations.parquet", "train_0_000")


@case("table_faults: no split", "exit 2, a sentence with annotations.parquet and split")
def _no_split(workbench: Workbench) -> FACT:
    return _faulty(workbench, "table_no_split", "annotations.parquet", "split")


@case("table_faults: cut", "exit 2, a sentence with annotations.parquet")
def _cut(workbench: Workbench) -> FACT:
    return _faulty(workbench, "table_cut", "annotations.parquet")


@case("table_faults: BOM", "read all the same, or exit 2 and a sentence with dataset_info.json")
def _bom(workbench: Workbench) -> FACT:
    workbench.generate("table_faults")
    prepared = workbench.prepare("out/table_bom")
    return (True, "read") if prepared.count() == 60 else _refused(prepared.done, "dataset_info.json")


@case("table_faults: JSON", "exit 2, a sentence with dataset_info.json")
def _json(workbench: Workbench) -> FACT:
    return _faulty(workbench, "table_json", "dataset_info.json")


@case("table_faults: class twice", "exit 2, a sentence with dataset_info.json and cat")
def _twice(workbench: Workbench) -> FACT:
    return _faulty(workbench, "table_twice", "dataset_info.json", "cat")


@case("table_faults: backslash", "used with a note, or exit 2 and a sentence with annotations.parquet")
def _backslash(workbench: Workbench) -> FACT:
    workbench.generate("table_faults")
    prepared = workbench.prepare("out/table_backslash")
    if prepared.count() == 60:
        return _is_said(prepared.done, r".*(backslash|windows).*")
    return _refused(prepared.done, "annotations.parquet")


@case("table_faults: two labels", "a note, or exit 2 and a sentence, with train_0_000")
def _two_labels(workbench: Workbench) -> FACT:
    workbench.generate("table_faults")
    done = workbench.prepare("out/table_two_labels").done
    right, text = _refused(done, "train_0_000")
    return (True, text) if right else _is_said(done, r".*train_0_000.*|.*(two|several|more than one) .*labels.*")


@case("unknown_user", "works")
def _unknown_user(workbench: Workbench) -> FACT:
    workbench.generate("unknown_user")
    (workbench.folder / "nameless").mkdir()
    (workbench.folder / "nameless/sitecustomize.py").write_text(NAMELESS)
    paths = f"{workbench.folder / 'nameless'}:{ROOT / 'src'}"
    env = dict.fromkeys(("USER", "LOGNAME", "LNAME", "USERNAME", "HOME"), "") | {"PYTHONPATH": paths}
    env["HOME"] = str(workbench.folder)
    return _worked(workbench.run(*workbench.train_command("out/unknown_user", "--stop-early"), env=env))


@case("datasets", "each generator has a case")
def _nothing_forgotten(workbench: Workbench) -> FACT:
    names = {path.stem for path in GENERATORS.glob("*.py")} - {"make"}
    text = Path(__file__).read_text()
    forgotten = sorted(name for name in names if json.dumps(name) not in text)
    return not forgotten, f"without a case: {', '.join(forgotten) or 'none'}"
