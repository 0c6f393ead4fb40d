"""Wait for the machines of one training, and compare what they are about to train on, before the first step.

Each machine prepares for itself, unless they share the folder. A machine whose
classes are in another order would train the same network on other labels, and
nobody would notice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import platform
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from trainer_classification.config import TrainConfig
from trainer_classification.console import duration, log
from trainer_classification.data.manifest import Manifest
from trainer_classification.options import flag

Prepared = TypeVar("Prepared")
Facts = Mapping[str, str]

_POLL_SECONDS = 0.1
_NOTICE_SECONDS = 10.0  # of waiting before a line says for whom
_REMINDER_SECONDS = 300.0
_FAREWELL_SECONDS = 10.0  # in which all processes read the result before one ends
_LONGEST_VALUE = 100  # characters of a value in a message
# Options that say where things are and how a machine does its work.
_OF_THE_MACHINE = frozenset(
    {
        *("dataset", "prepared", "output_dir", "project_name", "name"),
        *("workers", "processes", "log_interval", "resume"),
    }
)


@dataclass(frozen=True)
class Place:
    """The place of a process among the machines of a training.

    Attributes:
        node: number of this machine, from 0.
        nodes: number of machines.
        local_rank: of this process, on this machine.
        local_size: number of processes on this machine.
        size: number of processes on all machines.
    """

    node: int
    nodes: int
    local_rank: int
    local_size: int
    size: int


@dataclass(frozen=True)
class Node:
    """What a machine tells the others.

    Attributes:
        number: of the machine, from 0.
        host: its name.
        digest: hash of what has to be the same everywhere.
        error: why it cannot train; "": it can.
    """

    number: int
    host: str
    digest: str
    error: str = ""

    def __str__(self) -> str:
        return f"node {self.number} ({self.host})"


def locate_process() -> Place:
    """Return the place of this process, as its launcher says: torchrun, or one that sets fewer variables."""
    rank, size, local_rank, local_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    node = int(os.environ.get("GROUP_RANK", rank // local_size))
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", size // local_size))
    return Place(node, nodes, local_rank, local_size, size)


def share_prepared(
    store: Any,
    place: Place,
    prepare: Callable[[], Prepared],
    describe: Callable[[Prepared], Facts] | None = None,
) -> Prepared:
    """Prepare in the first process of each machine, wait for all machines, and compare them.

    The other processes poll for the result, so that a signal ends them while they
    wait, however long a machine takes.

    Args:
        store: of the process group.
        place: of this process.
        prepare: its result must be picklable.
        describe: returns the facts that have to be the same on all machines; None:
            nothing is compared.

    Returns:
        What `prepare` returned on this machine.

    Raises:
        ValueError: on every process, a machine differs from the first one or could
            not prepare.
    """
    if place.local_rank == 0:
        _prepare_and_announce(store, place, prepare, describe)
    while not store.check([f"prepared/{place.node}"]):
        time.sleep(_POLL_SECONDS)

    nodes = _wait_for_nodes(store, place)
    problem = find_difference(nodes, lambda node: json.loads(store.get(f"facts/{node}")))
    if problem:
        store.add("readers", 1)
        if not any(node.error for node in nodes):
            _wait_for_readers(store, place.size)
        raise ValueError(problem)
    result: Prepared = pickle.loads(store.get(f"prepared/{place.node}"))
    return result


def _prepare_and_announce(
    store: Any,
    place: Place,
    prepare: Callable[[], Prepared],
    describe: Callable[[Prepared], Facts] | None,
) -> None:
    """Prepare on this machine, and tell the others the outcome."""
    host = socket.gethostname()
    store.set(f"host/{place.node}", host)
    try:
        prepared = prepare()
        facts = json.dumps(dict(describe(prepared)) if describe else {})
    except Exception as error:
        _announce(store, Node(place.node, host, "", str(error)))
        _wait_for_readers(store, place.size - place.local_size)
        raise
    store.set(f"prepared/{place.node}", pickle.dumps(prepared))
    store.set(f"facts/{place.node}", facts)
    _announce(store, Node(place.node, host, hashlib.sha256(facts.encode()).hexdigest()))


def _announce(store: Any, node: Node) -> None:
    store.set(f"node/{node.number}", json.dumps(dataclasses.asdict(node)))


def _wait_for_nodes(store: Any, place: Place) -> list[Node]:
    """Return what the machines tell, once all have or one cannot train; say which are waited for."""
    started = time.monotonic()
    next_notice = started + _NOTICE_SECONDS
    nodes: dict[int, Node] = {}
    while len(nodes) < place.nodes and not any(node.error for node in nodes.values()):
        missing = [number for number in range(place.nodes) if number not in nodes]
        found = [number for number in missing if store.check([f"node/{number}"])]
        nodes |= {number: Node(**json.loads(store.get(f"node/{number}"))) for number in found}
        if found:
            continue

        if place.local_rank == 0 and time.monotonic() >= next_notice:
            next_notice = time.monotonic() + _REMINDER_SECONDS
            log(_describe_wait(store, missing, time.monotonic() - started), every_process=True)
        time.sleep(_POLL_SECONDS)

    return [nodes[number] for number in sorted(nodes)]


def _describe_wait(store: Any, missing: list[int], seconds: float) -> str:
    states = []
    for number in missing:
        if store.check([f"host/{number}"]):
            host = store.get(f"host/{number}").decode()
            states.append(f"node {number} ({host}), which is still preparing the dataset")
        else:
            states.append(f"node {number}, which has not started")
    return f"Waiting for {'; '.join(states)} ({duration(seconds)} so far)."


def _wait_for_readers(store: Any, count: int) -> None:
    """Wait until so many processes know of the problem: the store ends with the first process."""
    deadline = time.monotonic() + _FAREWELL_SECONDS
    while store.add("readers", 0) < count and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def find_difference(nodes: Sequence[Node], read_facts: Callable[[int], Facts]) -> str:
    """Return a sentence about the first machine that failed or differs from machine 0; "" if there is none.

    Args:
        nodes: all of them, or those that are known when one has failed.
        read_facts: number of a machine -> its facts, for those that differ.
    """
    for node in nodes:
        if node.error:
            return f"There is no training, because of {node}: {node.error}"

    first = nodes[0]
    other = next((node for node in nodes if node.digest != first.digest), None)
    if other is None:
        return ""
    expected = read_facts(first.number)
    found = read_facts(other.number)
    names = {**expected, **found}
    name = next(name for name in names if expected.get(name) != found.get(name))
    return (
        f"The {name} is {_shorten(found.get(name, 'nothing'))} on {other} and "
        f"{_shorten(expected.get(name, 'nothing'))} on {first}: give all nodes the same dataset, options and versions."
    )


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def describe_run(config: TrainConfig, manifest: Manifest, device: torch.device) -> dict[str, str]:
    """Return what has to be the same on all machines of a training, what is easiest to understand first."""
    facts = {
        "version of Python": ".".join(platform.python_version_tuple()[:2]),
        "version of torch": torch.__version__,
        "version of numpy": np.__version__,
        "version of the trainer's code": _hash_code(),
        "kind of device": device.type,
    }
    for field in dataclasses.fields(config):
        if field.name not in _OF_THE_MACHINE:
            facts[f"option {flag(field.name)}"] = str(getattr(config, field.name))

    facts["task"] = manifest.task
    facts["number of classes"] = str(len(manifest.class_names))
    facts |= {f"name of class {number}": name for number, name in enumerate(manifest.class_names)}
    facts |= {
        f"number of {name} images": str(split.count) for name, split in manifest.splits.items()
    }
    facts["dataset's fingerprint"] = manifest.fingerprint
    return facts


def _hash_code() -> str:
    """Return a hash of the package's source files, which machines may have in different versions."""
    folder = Path(__file__).parents[1]
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        state.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()[:12]
