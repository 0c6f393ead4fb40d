"""Timing, checking, targets and tables of the benchmarks. No worker is started, and nothing is really timed."""

import dataclasses
import json
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness import busy_timing, delivery, loader_timing, own_loaders, registry, regression, tables, targets
from harness.bottleneck import find_bottleneck
from harness.delivery import Delivery, Expected, Seen, audit, check
from harness.intervals import median_interval, ratio_interval
from harness.loader_timing import Timing
from harness.measure import Stopwatch, Turn, interleave, summarize
from harness.resources import Usage, evict, page_cache_share, read_files
from harness.vendor_defaults import Ffcv
from harness.worker import Server
from harness.worker_client import CandidateError, Outcome
from harness.workload import Workload, as_arguments, repeat_dataset
from helpers import encoded, noise, write_dataset
from trainer_classification.data.source import read_folder

NOTHING = Usage(0, 0, 0)


def test_the_interval_of_a_median_is_the_binomial_one():
    # Conover's table for n = 10: the 2nd and 9th of the ordered samples, 97.9 %.
    found = median_interval(list(range(10, 0, -1)))
    assert (found.median, found.low, found.high) == (5.5, 2, 9)
    assert found.confidence == pytest.approx(0.9785, abs=1e-4)


def test_few_samples_say_that_their_interval_is_no_95_percent():
    assert median_interval([1, 2, 3, 4, 5]).confidence == pytest.approx(0.9375)
    assert median_interval([1.0]).confidence == 0


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    random = np.random.default_rng(0)
    held = [
        found.low <= 1 <= found.high for found in (median_interval(2 ** random.normal(size=9)) for _ in range(2000))
    ]
    assert 0.95 <= np.mean(held) <= 0.975


def test_no_clock_starts_while_others_still_import(tmp_path, monkeypatch):
    events = []

    class WorkerClient:
        def __init__(self, name, *_):
            self.name = name

        def answer(self):
            events.append(f"{self.name} imported")
            if self.name == "torch":
                raise CandidateError("no torchvision")

        def end(self):
            events.append(f"{self.name} ended")

    def measure_opening(worker, cold):
        events.append(f"{worker.name} opened")
        return Outcome()

    for name, stand_in in {
        "WorkerClient": WorkerClient,
        "measure_opening": measure_opening,
        "registry": SimpleNamespace(
            find_reason_left_out=lambda *_: "", write=lambda *_: None, list_files=lambda *_: [], STAGES=()
        ),
        "write_expected": lambda _: None,
        "as_arguments": lambda _: {},
        "interleave": lambda *_: {},
    }.items():
        monkeypatch.setattr(loader_timing, name, stand_in)
    workload = SimpleNamespace(folder=tmp_path.joinpath)
    found = loader_timing.measure_loaders(workload, ["torch", "resident", "dali"], Timing(1, 1), lambda _: None)
    assert events[:4] == ["torch imported", "torch ended", "resident imported", "dali imported"]
    assert events[4:] == ["resident opened", "dali opened", "resident ended", "dali ended"]
    assert found.left_out == {"torch": "failed: no torchvision"}
    assert found.disqualified == ["torch"]


def test_a_slow_round_cancels_out_of_a_ratio():
    assert ratio_interval([4, 40, 4], [2, 20, 2]).high == 2


def test_candidates_take_turns_until_all_have_enough():
    order = []

    def taker(name, seconds):
        def take():
            order.append(name)
            return Turn(10, seconds, NOTHING)

        return take

    turns = interleave({"a": taker("a", 1.0), "b": taker("b", 0.3)}, seconds=1.0, count=2)
    assert order == ["a", "b"] * 4
    assert summarize(turns["a"])["images_per_second"] == 10


LABELS = np.arange(64) % 4
EXPECTED = Expected(8, LABELS, 0, mean=127.5, spread=74.0, distinct=1.0, random=True, brightness=[], fit=0)


class Fake:
    """A loader over 64 noise images that can be told to cheat."""

    files = ()

    def __init__(self, cheat=""):
        self.cheat = cheat
        self.images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8))

    def planned(self, number):
        return np.random.default_rng(number).permutation(64)

    def epoch(self, number):
        order = torch.from_numpy(self.planned(number))
        order = order[:40] if self.cheat == "skips" else order
        order = order.flip(0) if self.cheat == "another order" else order
        for index in order.split(16):
            images, labels = self.images[index], torch.from_numpy(LABELS)[index]
            if self.cheat == "one image":
                images = self.images[:1].expand(len(index), -1, -1, -1)
            if self.cheat == "black":
                images = torch.zeros_like(images)
            if self.cheat == "labels":
                labels = labels.roll(1)
            if self.cheat == "small":
                images = images[:, ::2, ::2]
            if self.cheat == "float":
                images = images.float()
            yield Delivery(len(index), images, labels, index)


def test_an_honest_epoch_passes_with_the_same_checksum_in_both_layouts():
    class YCbCrImage(Fake):
        def epoch(self, number):
            for batch in super().epoch(number):
                batch.images = batch.images.permute(0, 3, 1, 2)
                yield batch

    assert audit(Fake(), 0, EXPECTED) == audit(YCbCrImage(), 0, EXPECTED)


@pytest.mark.parametrize("cheat", ["skips", "another order", "one image", "black", "labels", "small", "float"])
def test_a_loader_that_skips_work_is_found_out(cheat):
    with pytest.raises(AssertionError):
        audit(Fake(cheat), 0, EXPECTED)


class SelfShuffling:
    """A library that shuffles by itself over images that show their class; it can be told to cheat."""

    files = ()

    def __init__(self, count, batch_size, missing, cheat=""):
        random = np.random.default_rng(0)
        self.labels = np.sort(random.integers(0, 20, count))
        noise = random.integers(0, 156, (count, 8, 8, 3))
        self.images = torch.from_numpy((noise + 5 * self.labels[:, None, None, None]).astype(np.uint8))
        self.batch_size, self.missing, self.cheat = batch_size, missing, cheat

    def expected(self):
        kept = delivery.grid(self.images).numpy().reshape(len(self.images), -1)
        brightness = delivery.class_means(kept.mean(axis=1), self.labels, 20)
        fit = delivery.fit(kept.mean(axis=1), self.labels, brightness)
        about = {"mean": kept.mean(), "spread": kept.std(), "distinct": 1.0, "random": True}
        return Expected(8, self.labels, self.missing, brightness=brightness, fit=fit, **about)

    def planned(self, number):
        return None

    def epoch(self, number):
        random = np.random.default_rng(number)
        order, labels = random.permutation(len(self.labels)), self.labels
        if self.cheat == "half of the images":
            order = order[: len(order) // 2]
        if self.cheat == "half of the images twice":
            order = np.tile(order[: len(order) // 2], 2)
        if self.cheat == "one batch too few":
            order = order[: -self.batch_size]
        if self.cheat == "the next class":
            labels = (labels + 1) % 20
        if self.cheat == "one class":
            labels = np.zeros_like(labels)
        if self.cheat == "labels of other images":
            labels = random.permutation(labels)
        for index in np.split(order, range(self.batch_size, len(order), self.batch_size)):
            yield Delivery(len(index), self.images[index], torch.from_numpy(labels[index]))


# What the default runs deliver of caltech-101 and cifar100.
DEFAULTS = [
    SimpleNamespace(count=512, batch_size=128, threads=2),
    SimpleNamespace(count=2048, batch_size=512, threads=2),
]
CHEATS = [
    "half of the images",
    "half of the images twice",
    "one batch too few",
    "the next class",
    "one class",
    "labels of other images",
]


@pytest.mark.parametrize("work", DEFAULTS, ids=["caltech-101", "cifar100"])
@pytest.mark.parametrize("name", [name for name, entry in registry.CANDIDATES.items() if entry.delivers])
def test_no_candidate_may_skip_images_or_mix_up_labels_in_a_default_run(name, work):
    common = work.count, work.batch_size, registry.missing(name, work)
    honest = SelfShuffling(*common)
    assert audit(honest, 0, honest.expected())["images"] == work.count
    for cheat in CHEATS:
        with pytest.raises(AssertionError):
            audit(SelfShuffling(*common, cheat), 0, honest.expected())


def test_only_what_does_not_fill_a_batch_may_be_left_out_and_by_webdataset_nothing():
    work = SimpleNamespace(count=6930, batch_size=128, threads=2)
    assert registry.missing("ffcv-vendor-raw", work) == registry.missing("dali-vendor", work) == 18
    assert registry.missing("webdataset", work) == 0


def test_what_is_kept_in_the_timed_part_is_enough_to_find_a_loader_that_skips():
    seen = Seen()
    for batch in Fake("one image").epoch(3):
        seen.add(batch)
    expected = dataclasses.replace(EXPECTED, mean=118.0)  # so that only the sameness can be found
    with pytest.raises(AssertionError, match="distinct"):
        check(seen, expected, None)


def test_the_hash_of_an_epoch_does_not_depend_on_its_order_but_on_its_pixels():
    def hashed(loader, number):
        seen = Seen()
        for batch in loader.epoch(number):
            seen.add(batch)
        return check(seen, EXPECTED, None)

    loader = Fake()
    assert hashed(loader, 1) == hashed(loader, 2)
    loader.images[5] ^= 1
    assert hashed(loader, 1) != hashed(Fake(), 1)


def test_every_target_is_what_its_formula_gives_and_names_its_source():
    hosts, found = targets.read_targets()
    assert {target.dataset for target in found} >= {"mnist", "cifar10", "cifar100", "caltech-101", "caltech-256"}
    for target in found:
        assert target.source
        assert target.hardware in hosts
        assert target.derived or target.hardware != "t4", "no published T4 row is known"


def test_a_figure_that_is_not_its_formula_is_an_error(tmp_path):
    path = tmp_path / "targets.toml"
    path.write_text(targets.FILE.read_text().replace("images_per_second = 1200\n", "images_per_second = 1300\n"))
    with pytest.raises(ValueError, match="formula 1200 gives 1200"):
        targets.read_targets(path)


@pytest.mark.parametrize("formula", ["__import__('os')", "a * 2", "[1]", "-1"])
def test_a_formula_is_plain_arithmetic(formula):
    with pytest.raises(ValueError, match="plain arithmetic"):
        targets.compute(formula)


def test_a_projection_scales_by_cores():
    found = {aim.target.hardware: aim for aim in targets.project_targets("caltech-101", 128, 8000, threads=2)}
    assert found["t4"].images_per_second == 16000
    assert found["t4"].ratio == pytest.approx(16000 / 3721)


def test_the_slowest_stage_is_the_limit():
    rates = {"decode-originals": 900.0, "copy": 9e5, "dali": 800.0, "stage-read-dali": 5e4}
    rates |= {"stage-step": 1800.0, "stage-train-dali": 1000.0}
    found = find_bottleneck("dali", rates)
    assert (found.limit, found.possible) == ("decode", 1.8)
    assert "limited by decode; 1.80x possible" in str(found)
    assert find_bottleneck("ffcv", rates) is None


def test_noise_never_makes_the_ladder_say_that_training_could_be_slower():
    found = find_bottleneck("torch", {"stage-step": 98.0, "stage-train-torch": 100.0})
    assert found.possible == 1.0
    assert "1.00x possible" in str(found)


def test_a_floor_breaks_only_where_the_whole_interval_is_below():
    name = "resident", "torch"
    kept, broken = ([50.0, 400.0, 60.0], [50.0, 55.0, 60.0])
    for rates, verdict in ((kept, True), (broken, False)):
        found = regression.check_floors("caltech-101", {name[0]: rates, name[1]: [10.0] * 3})
        assert [check.kept for check in found] == [verdict]


def test_limits_beside_loaders_break_where_speed_was_lost():
    rounds = [4.0, 2.0, 2.0]  # of `import torch`
    assert regression.check_start([8.4, 9.0, 3.8], rounds).kept  # a noisy round does not count
    assert not regression.check_start([8.4, 5.0, 4.6], rounds).kept
    assert regression.check_busy(350.0, 100.0).kept
    assert not regression.check_busy(150.0, 100.0).kept
    assert regression.check_auto_precision(1.05, 1.0).kept
    assert not regression.check_auto_precision(1.3, 1.0).kept
    assert "BROKEN" in str(regression.check_busy(150.0, 100.0))


def test_a_fair_share_is_what_equal_threads_get(monkeypatch):
    monkeypatch.setattr(busy_timing, "cpu_count", lambda: 2)
    assert busy_timing.fair_share(8) == 0.2
    assert busy_timing.fair_share(0) == 1.0
    assert busy_timing.fair_share(1, threads=1) == 1.0


def test_a_block_of_the_readme_is_made_anew_and_nothing_else_changes():
    text = "before\n<!-- x -->\nold\n<!-- /x -->\nafter\n"
    assert tables.replace_block(text, "x", r"new \1") == "before\n<!-- x -->\nnew \\1\n<!-- /x -->\nafter\n"
    with pytest.raises(ValueError, match="no markers"):
        tables.replace_block(text, "y", "")


def test_the_benchmark_page_has_the_tables_that_the_results_give(tmp_path):
    root = Path(__file__).parents[2]
    sys.path.insert(0, str(root / "benchmarks"))
    try:
        import make_tables
    finally:
        sys.path.pop(0)
    page = root / "docs/benchmarks.md"
    copy = tmp_path / "benchmarks.md"
    copy.write_text(page.read_text())
    make_tables.main(copy, root / "benchmarks/results")
    assert copy.read_text() == page.read_text(), "run: python benchmarks/make_tables.py"


@pytest.mark.parametrize("name", ["mnist", "cifar100", "caltech-101"])
def test_a_printed_table_has_100_columns_at_most_and_whole_cells(name, capsys):
    path = Path(__file__).parents[2] / f"benchmarks/results/loader-{name}-2core.json"
    content = tables.read_loader_results(path)
    lines = tables.format_rows(content["rows"], tables.TERMINAL_COLUMNS)
    tables.print_table("title", list(tables.TERMINAL_COLUMNS), lines)
    tables.print_table("title", *tables.make_targets_table(content["targets"][name]))
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed)) <= 100
    for cells in lines:
        assert any(all(cell in line for cell in cells) for line in printed), cells


def test_old_names_of_rows_are_mapped():
    path = Path(__file__).parents[2] / "benchmarks/results/loader-caltech-101-2core.json"
    assert {row["loader"] for row in tables.read_loader_results(path)["rows"]} == registry.CANDIDATES.keys() - {
        "planes"  # which came later
    }


def test_results_are_written_as_json(tmp_path):
    tables.write_json(tmp_path / "new" / "x.json", {"rows": []})
    assert json.loads((tmp_path / "new" / "x.json").read_text()) == {"rows": []}


def test_the_grid_keeps_sixteen_pixels_of_any_size():
    for side in (8, 28, 32, 128):
        assert delivery.grid(torch.zeros(2, side, side, 3, dtype=torch.uint8)).shape[1:3] == (4, 4)


@pytest.mark.parametrize("images", [3, 10, 20])
def test_a_dataset_is_repeated_to_as_many_images_as_asked_for(tmp_path, images):
    rows = [{"data": encoded(noise(number)), "label": "a", "split": "train"} for number in range(8)]
    dataset = write_dataset(tmp_path / "tiny", rows, ["a"])
    found = read_folder(repeat_dataset(dataset, images, tmp_path / "repeated"))
    train = np.array(found.files)[found.splits == "train"]
    assert len(train) == images
    assert len(set(train)) == min(images, 7)  # one is the test split
    assert set(np.unique(train, return_counts=True)[1]) <= {images // 7, images // 7 + 1}


def a_file(folder, name="file"):
    """Of a few megabytes, in the page cache."""
    path = folder / name
    path.write_bytes(bytes(4 << 20))
    return str(path)


def test_a_file_leaves_the_page_cache_unless_someone_has_it_mapped(tmp_path):
    paths = [a_file(tmp_path, "a"), a_file(tmp_path, "b")]
    mapped = np.memmap(paths[0], mode="r")
    assert mapped.sum() == 0  # every page is looked at
    assert not evict(paths)
    del mapped
    assert evict(paths)


def test_files_that_were_dropped_are_brought_back(tmp_path):
    paths = [a_file(tmp_path, "a"), a_file(tmp_path, "b")]
    assert evict(paths)
    assert page_cache_share(paths) < 0.05
    read_files(paths)
    assert page_cache_share(paths) == 1


def test_where_no_file_is_read_none_was_dropped():
    assert not evict([])


class Mapping:
    """A candidate that has its file mapped, and whose close does not let go of it."""

    def __init__(self, path):
        self.files, self.mapped, self.itself = [path], np.memmap(path, mode="r"), self

    def epoch(self, number):
        assert self.mapped.sum() == 0
        yield Delivery(10)

    def close(self):
        pass


def test_a_cold_epoch_is_reported_only_where_the_files_left_the_page_cache(tmp_path):
    path = a_file(tmp_path)
    server = Server("")
    server.open = lambda: Mapping(path)
    server.watch = Stopwatch(torch.device("cpu"))
    server.expected = None
    server.first()
    assert server.cold()["rate"] > 0
    other = np.memmap(path, mode="r")
    assert other.sum() == 0
    assert server.cold()["rate"] == 0
    assert server.candidate is not None  # and it goes on


@pytest.mark.parametrize(("ahead", "untimed"), [(True, 1), (False, 0)])
def test_what_was_made_while_others_ran_is_not_counted(tmp_path, ahead, untimed):
    candidate = Mapping(a_file(tmp_path))
    candidate.works_ahead = ahead
    server = Server("")
    server.candidate = candidate
    server.watch = Stopwatch(torch.device("cpu"))
    server.expected = None
    server.last = 100.0
    images = server.turn(0.001)["images"]
    assert server.number - images // 10 == untimed


def test_a_rate_that_was_not_measured_is_an_empty_cell():
    assert tables.LOADER_COLUMNS["from disk"]({"cold_images_per_second": 0.0}) == ""
    assert tables.LOADER_COLUMNS["from disk"]({"cold_images_per_second": 1234.5}) == "1,234"


def test_vendor_ffcv_lets_go_of_its_loader_when_it_is_closed():
    candidate = object.__new__(Ffcv)
    candidate.loader = Mapping.__new__(Mapping)
    gone = weakref.ref(candidate.loader)
    candidate.close()
    assert gone() is None


@pytest.mark.parametrize(("resized", "read"), [(True, "tar/train-0.tar"), (False, "array/train.bin")])
def test_dali_reads_the_array_of_small_images_and_the_tars_of_large_ones(resized, read):
    names = ["array/train.bin", "beton/train.beton", "tar/train-0.tar", "tar/test-0.tar"]
    manifest = SimpleNamespace(resized=resized, files=dict.fromkeys(names))
    workload = SimpleNamespace(prepared="prepared", manifest=manifest, files=["a.jpg"])
    assert own_loaders.list_shards("dali", workload) == [f"prepared/{read}"]
    assert own_loaders.list_shards("torch", workload) == ["a.jpg"]


def test_formats_that_are_written_for_each_worker_are_kept_apart_by_threads(tmp_path):
    two, four = (Workload("", str(tmp_path), 128, threads, "cpu", 128) for threads in (2, 4))
    assert two.folder("webdataset") != four.folder("webdataset")
    assert two.folder("litdata") != four.folder("litdata")
    assert two.folder("ffcv-vendor-raw") == four.folder("ffcv-vendor-raw")


def test_what_may_be_left_out_follows_from_the_batch_of_this_run_whatever_an_earlier_one_kept(monkeypatch):
    monkeypatch.setattr(Workload, "count", 100)
    monkeypatch.setattr(Workload, "expected", lambda _, missing: missing)
    for batch_size, left_out in ((32, 4), (30, 10)):
        arguments = as_arguments(Workload("", "", batch_size, 2, "cpu", 32))
        assert registry.start("resident", arguments)[2] == left_out


@pytest.mark.parametrize(("there", "wanted"), [(True, ["harness.vendor_defaults:compile_dictionary"]), (False, [])])
def test_what_several_candidates_need_is_preloaded_once_and_only_where_they_are_installed(monkeypatch, there, wanted):
    asked = []
    monkeypatch.setattr(registry, "get_fork_server", lambda: SimpleNamespace(preload=asked.append))
    monkeypatch.setattr(registry, "installed", lambda _: there)
    registry.preload(["resident", "ffcv-vendor-raw", "ffcv-vendor-jpg", "stage-step"])
    assert asked == wanted
