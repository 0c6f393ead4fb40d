"""Machines of one training wait for each other, and say in one sentence why they do not train together."""

import dataclasses
import threading

import pytest
import torch

from trainer_classification.config import TrainConfig
from trainer_classification.data.manifest import SplitInfo
from trainer_classification.training import nodes
from trainer_classification.training.nodes import Place, describe_run, share_prepared

CPU = torch.device("cpu")


class Store:
    """The part of torch's store that is used, in one process."""

    def __init__(self):
        self.values, self.numbers, self.lock = {}, {}, threading.Lock()

    def set(self, key, value):
        self.values[key] = value if isinstance(value, bytes) else value.encode()

    def get(self, key):
        return self.values[key]

    def check(self, keys):
        return all(key in self.values for key in keys)

    def add(self, key, count):
        with self.lock:
            self.numbers[key] = self.numbers.get(key, 0) + count
            return self.numbers[key]


def run_together(prepares, describes, per_node=1):
    """The result or the error of each process, in order of the ranks."""
    store, size = Store(), len(prepares) * per_node
    outcomes = [None] * size

    def run(rank):
        node, local_rank = divmod(rank, per_node)
        place = Place(node, len(prepares), local_rank, per_node, size)
        try:
            outcomes[rank] = share_prepared(store, place, prepares[node], describes[node])
        except ValueError as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return outcomes


def facts(**values):
    return lambda prepared: {"option --seed": "0", "name of class 0": "a"} | values


def test_each_process_gets_what_its_own_machine_prepared():
    assert run_together([lambda: "one", lambda: "two"], [facts(), facts()], per_node=2) == ["one", "one", "two", "two"]


def test_a_difference_is_the_same_sentence_on_all_processes():
    outcomes = run_together([str, str, str], [facts(), facts(), facts(**{"name of class 0": "b"})], per_node=2)
    assert len({str(error) for error in outcomes}) == 1
    assert isinstance(outcomes[0], ValueError)
    assert "The name of class 0 is b on node 2 (" in str(outcomes[0])
    assert "and a on node 0 (" in str(outcomes[0])


def test_a_fact_that_one_machine_lacks_is_a_difference():
    outcomes = run_together([str, str], [facts(), facts(more="x" * 1000)])
    assert "The more is xxx" in str(outcomes[0])
    assert "nothing on node 0" in str(outcomes[0])
    assert len(str(outcomes[0])) < 400


def test_a_machine_that_cannot_prepare_is_named_on_the_others():
    def fail():
        raise ValueError("there is no folder d.")

    outcomes = run_together([str, fail], [facts(), facts()])
    assert "because of node 1 (" in str(outcomes[0])
    assert "there is no folder d." in str(outcomes[0])
    assert str(outcomes[1]) == "there is no folder d."


def test_a_slow_machine_is_waited_for_by_name(monkeypatch, capsys):
    monkeypatch.setattr(nodes, "_NOTICE_SECONDS", 0.0)
    started, said, real = threading.Event(), threading.Event(), nodes.log

    def log(text, every_process=False):
        real(text, every_process)
        said.set()

    monkeypatch.setattr(nodes, "log", log)

    def prepare_fast():
        return started.wait(20) and "fast"

    def prepare_slowly():
        started.set()
        return said.wait(20) and "slow"

    assert run_together([prepare_fast, prepare_slowly], [facts(), facts()]) == ["fast", "slow"]
    assert "Waiting for node 1 (" in capsys.readouterr().err


@dataclasses.dataclass
class Prepared:
    """What `describe_run` reads of a manifest."""

    class_names: list
    count: int = 5
    task: str = "t"
    fingerprint: str = "f"

    @property
    def splits(self):
        return {"train": SplitInfo(self.count, "dataset", [])}


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("name of class 0", {"manifest": Prepared(["b", "a"])}),
        ("number of classes", {"manifest": Prepared(["a", "b", "c"])}),
        ("number of train images", {"manifest": Prepared(["a", "b"], count=6)}),
        ("dataset's fingerprint", {"manifest": Prepared(["a", "b"], fingerprint="g")}),
        ("option --learning-rate", {"config": TrainConfig(learning_rate=0.5)}),
        ("option --image-size", {"config": TrainConfig(image_size=64)}),
    ],
)
def test_what_shapes_a_training_is_compared_and_the_cause_comes_before_the_fingerprint(field, change):
    arguments = {"config": TrainConfig(), "manifest": Prepared(["a", "b"]), "device": CPU}
    expected, found = describe_run(**arguments), describe_run(**(arguments | change))
    differing = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    assert differing[0] == field


def test_folders_and_workers_may_differ():
    one = TrainConfig(dataset="/a", prepared="/b", output_dir="/c", workers=3, name="d")
    assert describe_run(one, Prepared(["a"]), CPU) == describe_run(TrainConfig(), Prepared(["a"]), CPU)
