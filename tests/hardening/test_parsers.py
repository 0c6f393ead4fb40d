"""Every parser reads what it is given, or says in one sentence that it cannot."""

import copy
import json
import shutil
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from hardening.conftest import SCALE, SEED
from helpers import encoded, photograph, write_dataset
from trainer_classification import cli, option_file
from trainer_classification.config import (
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    PrepareConfig,
    ServeConfig,
    TrainConfig,
)
from trainer_classification.data import array, beton, hafnia_table, manifest, table, table_reader, tar
from trainer_classification.inference.explain import explain
from trainer_classification.options import options_of
from trainer_classification.outputs import runs
from trainer_classification.preparation import partial, recall
from trainer_classification.preparation.inspect import inspect
from trainer_classification.preparation.pipeline import prepare

CONFIGS = [TrainConfig, PrepareConfig, PredictConfig, EvaluateConfig, ExportConfig, ServeConfig]
DEEP = "[" * 200_000
LONG_NUMBER = "9" * 5_000

TEXT = st.text(max_size=12)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.sampled_from([-1, 2**63, "../x", "", "\0", 1e300])
)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))


def often(examples):
    """Set the number of examples, without the files of a database, and the seed."""

    def decorate(test):
        health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
        options = settings(
            max_examples=max(1, round(examples * SCALE)), deadline=None, database=None, suppress_health_check=health
        )
        return seed(SEED)(options(test))

    return decorate


@st.composite
def spoiled(draw, content: bytes):
    """Bytes of which a few are changed, cut off, doubled or replaced by text that parsers trip over."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "remove", "repeat"]))
        if kind == "flip" and data:
            data[place] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del data[place:]
        elif kind == "insert":
            more = [b"\0", b"\xff\xfe", b'"', b"\n", b"{", b"-", b"1e999", b"NaN", LONG_NUMBER.encode(), DEEP.encode()]
            data[place:place] = draw(st.sampled_from(more) | st.binary(max_size=9))
        elif kind == "remove":
            del data[place : place + draw(st.integers(1, 40))]
        else:
            data[place:place] = data[place : place + 200]
    return bytes(data)


@st.composite
def odd_tree(draw, tree):
    """JSON of which a value anywhere is another, or lacks."""
    tree = copy.deepcopy(tree)
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return tree
        key = draw(st.sampled_from(keys))
        if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
            node = node[key]
            continue
        if draw(st.integers(0, 4)):
            node[key] = draw(JSON)
        else:
            del node[key]
        return tree


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("parsers")
    size = {"width": 40, "height": 40}
    images = [
        {"data": encoded(photograph(n, 40, 40), "JPEG"), "label": "ab"[n % 2], "split": split} | size
        for n, split in enumerate(["train"] * 8 + ["validation"] * 2 + ["test"] * 4)
    ]
    dataset = write_dataset(root / "dataset", images, ["a", "b"])
    config = PrepareConfig(
        dataset=str(dataset), prepared=str(root / "out"), formats="array,beton,tar", beton_mode="jpg", workers=1
    )
    folder = prepare(config).folder
    recall.tell_if_prepared(config)
    return SimpleNamespace(dataset=dataset, folder=folder, config=config, root=root)


def one_sentence(call, *names):
    """Call, and check that an error is a ValueError of one line that has one of the names."""
    error = None
    try:
        call()
    except ValueError as caught:
        error = caught
    assert error is None or not names or any(name in str(error) for name in names), error


def open_all(folder):
    content = manifest.read(folder)
    for split in ("train", "test"):
        for open_split in (table.open_table, array.open_array, beton.open_split, tar.open_split):
            open_split(folder, content, split)


@often(300)
@given(data=st.data())
def test_a_manifest_with_any_value_is_read_or_refused(made, tmp_path_factory, data):
    """Without a checksum, as older ones are and those that others wrote."""
    tree = json.loads((made.folder / "manifest.json").read_text())
    folder = made.root / "odd_manifest"
    if not folder.exists():
        shutil.copytree(made.folder, folder)
        (folder / "manifest.sha256").unlink()
    (folder / "manifest.json").write_text(json.dumps(data.draw(odd_tree(tree))))
    one_sentence(lambda: open_all(folder))


@often(200)
@given(data=st.data())
def test_a_manifest_of_any_bytes_is_read_or_refused(made, data):
    folder = made.root / "odd_bytes"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(data.draw(spoiled((made.folder / "manifest.json").read_bytes())))
    one_sentence(lambda: manifest.read(folder), "manifest.json")
    manifest.is_prepared(folder)


@often(300)
@given(data=st.data())
def test_a_beton_of_any_bytes_is_read_or_refused(made, data):
    path = made.root / "odd.beton"
    whole = (made.folder / "beton/train.beton").read_bytes()
    head = whole[:3000]  # header, fields and samples; what follows is mostly padding
    path.write_bytes(data.draw(spoiled(head)) + whole[3000:])

    def read():
        store = beton.open_beton(path)
        return [store.image(sample) for sample in range(len(store.offsets))]

    one_sentence(read, path.name)


@often(300)
@given(data=st.data())
def test_a_tar_index_of_any_text_is_read_or_refused(made, data):
    folder = made.root / "odd_tar"
    folder.mkdir(exist_ok=True)
    (index,) = made.folder.glob("tar/train-*.idx")
    shutil.copy(index.with_suffix(".tar"), folder)
    (folder / index.name).write_bytes(data.draw(spoiled(index.read_bytes())))

    def read():
        store = tar.open_tars(folder, "train", 8)
        return store.labels, [store.image(sample) for sample in range(8)]

    one_sentence(read, folder.name)


OPTION_FILES = {
    "options.json": b'{"batch_size": 64, "epochs": 3, "dataset": "mnist", "early-stop": 2}',
    "options.toml": b'batch_size = 64\nepochs = 3\ndataset = "mnist"\nearly-stop = 2\n[more]\nx = [1, 2]\n',
}


@pytest.mark.parametrize("name", OPTION_FILES)
@often(200)
@given(data=st.data())
def test_a_file_of_options_of_any_bytes_is_read_or_refused(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data.draw(spoiled(OPTION_FILES[name])))
    one_sentence(lambda: option_file.read_tokens(path, options_of(TrainConfig)), name)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
@often(60)
@given(data=st.data())
def test_any_value_of_an_option_is_taken_or_refused_in_a_line(capsys, config, data):
    names = sorted(options_of(config))
    values = TEXT | LEAVES.map(str) | st.sampled_from(["1e9", "-0", "0x10", "１２", "nan", "inf", "--", "=", "'", '"'])
    tokens = []
    for name in data.draw(st.lists(st.sampled_from(names), max_size=3)):
        flag = "--" + name.replace("_", "-")
        value = data.draw(values)
        tokens += data.draw(st.sampled_from([[flag, value], [f"{flag}={value}"], [flag], [value]]))
    capsys.readouterr()
    code = cli.run(config, lambda _: 0, tokens)
    errors = capsys.readouterr().err
    assert code in (0, 2)
    assert "Traceback" not in errors
    assert code == 0 or errors.startswith("Error: ")


TABLES = {
    "odd.csv": b'path,label,split\na.jpg,cat,train\n"b, c.jpg",dog,test\nd.jpg,cat,validation\n',
    "odd.tsv": b"path\tlabel\na.jpg\tcat\nb.jpg\tdog\n",
    "odd.jsonl": b'{"path": "a.jpg", "label": "cat"}\n{"path": "b.jpg", "label": 3}\n',
    "odd.json": b'[{"path": "a.jpg", "label": "cat"}, {"path": "b.jpg", "label": null}]',
}


@pytest.mark.parametrize("name", [*TABLES, "odd.parquet"])
@often(200)
@given(data=st.data())
def test_a_table_of_any_bytes_is_read_or_refused(made, tmp_path, name, data):
    path = tmp_path / name
    whole = TABLES.get(name) or (made.dataset / "annotations.parquet").read_bytes()
    path.write_bytes(data.draw(spoiled(whole)))
    one_sentence(lambda: table_reader.read_table(path, lambda cells: cells[:1] == ["path"]), name)


@pytest.fixture(scope="module")
def table_of_images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table_of_images")
    for number in range(4):
        (folder / f"{number}.png").write_bytes(encoded(photograph(number, 12, 12)))
    return folder


@often(100)
@given(data=st.data())
def test_a_dataset_with_any_cells_is_inspected_or_refused(table_of_images, data):
    cells = st.sampled_from(["0.png", "1.png", "2.png", "cat", "dog", "train", "test", "", "../0.png", "\0", "x" * 300])
    row = st.fixed_dictionaries({}, optional=dict.fromkeys(("path", "label", "split"), cells | LEAVES))
    path = table_of_images / "odd.jsonl"
    lines = [json.dumps(entry) for entry in data.draw(st.lists(row, min_size=1, max_size=4))]
    path.write_text("\n".join(lines))
    one_sentence(lambda: inspect(PrepareConfig(dataset=str(path), prepared=str(table_of_images / "out"))))


@often(200)
@given(data=st.data())
def test_a_description_of_a_dataset_of_any_bytes_is_read_or_refused(made, tmp_path, data):
    path = tmp_path / hafnia_table.INFO
    path.write_bytes(data.draw(spoiled((made.dataset / hafnia_table.INFO).read_bytes())))
    one_sentence(lambda: hafnia_table.read_info(path), path.name)


@often(100)
@given(data=st.data())
def test_a_dataset_with_any_row_is_inspected_or_refused(made, data):
    folder = made.root / "odd_dataset"
    if not folder.exists():
        shutil.copytree(made.dataset, folder)
        (folder / "annotations.parquet").unlink()
    entry = {"class_name": "a", "class_idx": 0, "task_name": "image_classification"}
    table_rows = [
        {"file_path": f"data/{n:05d}.png", "split": "train", "width": 40, "height": 40, "classifications": [entry]}
        for n in range(4)
    ]
    info = json.loads((made.dataset / hafnia_table.INFO).read_text())
    odd = data.draw(odd_tree({"rows": table_rows, "info": info}))
    lines = odd["rows"] if isinstance(odd.get("rows"), list) else [odd.get("rows")]
    (folder / "annotations.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (folder / hafnia_table.INFO).write_text(json.dumps(odd.get("info")))
    one_sentence(lambda: inspect(PrepareConfig(dataset=str(folder), prepared=str(made.root / "odd_out"))))


@often(100)
@given(data=st.data())
def test_what_is_noted_of_a_dataset_is_recalled_or_forgotten(made, data):
    path = recall.note_path(made.config)
    assert path.is_file()
    whole = path.read_bytes()
    try:
        if data.draw(st.booleans()):
            path.write_bytes(data.draw(spoiled(whole)))
        else:
            path.write_text(json.dumps(data.draw(odd_tree(json.loads(whole)))))
        recall.tell_if_prepared(made.config)
    finally:
        path.write_bytes(whole)


@often(100)
@given(data=st.data())
def test_a_summary_with_any_value_is_listed(tmp_path, data):
    folder = tmp_path / "experiments/run"
    for name in ("data", "checkpoints"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    summary = {"dataset": "d", "model": "m", "accuracy_test": 0.5, "accuracy_test_interval": [0.4, 0.6]}
    text = json.dumps(data.draw(odd_tree(summary | {"seconds_total": 3.0}))).encode()
    (folder / "data/summary.json").write_bytes(text if data.draw(st.booleans()) else data.draw(spoiled(text)))
    found = runs.find_runs(tmp_path)
    runs.format_table(found)
    runs.format_csv(found)


@often(50)
@given(data=st.data())
def test_predictions_of_any_bytes_are_explained_or_refused(tmp_path, data):
    path = tmp_path / "odd.jsonl"
    path.write_bytes(data.draw(spoiled(b'{"model": "m", "class": "a"}\n{"model": "m", "class": "b"}\n')))
    one_sentence(lambda: explain(path), path.name)


@often(50)
@given(data=st.data())
def test_a_marker_of_any_bytes_is_read_or_empty(tmp_path, data):
    (tmp_path / partial._MARKER).write_bytes(data.draw(spoiled(b'{"target": "x", "task": "y"}')))
    partial.read_marker(tmp_path)
