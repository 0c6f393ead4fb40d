"""What T4 and V100 consume, from `benchmarks/targets.toml`, and how a loader measured here compares."""

from __future__ import annotations

import ast
import operator
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "targets.toml"
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True)
class Target:
    """Images a second that a network on some hardware trains on.

    Attributes:
        hardware: a key of the hosts.
        formula: arithmetic that gives `images_per_second`.
        source: where its numbers are from.
        derived: no published row says it.
    """

    dataset: str
    network: str
    image_size: int
    hardware: str
    images_per_second: float
    formula: str
    source: str
    derived: bool


@dataclass(frozen=True)
class Host:
    """What a GPU comes with."""

    name: str
    vcpus: int


@dataclass(frozen=True)
class Projection:
    """A rate measured here, scaled linearly by CPUs to a host: a projection, not a measurement."""

    target: Target
    host: Host
    per_core: float
    images_per_second: float

    @property
    def ratio(self) -> float:
        """Of what the GPUs consume."""
        return self.images_per_second / self.target.images_per_second


def read_targets(path: Path = FILE) -> tuple[dict[str, Host], list[Target]]:
    """The hosts, and all targets.

    Raises:
        ValueError: a formula does not give its figure.
    """
    content = tomllib.loads(path.read_text())
    hosts = {name: Host(**host) for name, host in content["hosts"].items()}
    targets = [Target(**entry) for entry in content["targets"]]
    for target in targets:
        computed = compute(target.formula)
        if abs(computed / target.images_per_second - 1) > 0.001:
            raise ValueError(
                f"{path}: {target.dataset} on {target.hardware} says {target.images_per_second:g}, but its formula "
                f"{target.formula} gives {computed:.1f}."
            )
    return hosts, targets


def compute(formula: str) -> float:
    """Arithmetic over numbers: + - * / ** and parentheses.

    Raises:
        ValueError: anything else is in it.
    """

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return float(_OPERATORS[type(node.op)](value(node.left), value(node.right)))
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return float(node.value)
        raise ValueError(f"{formula!r} is not plain arithmetic.")

    return value(ast.parse(formula, mode="eval").body)


def project_targets(dataset: str, image_size: int, rate: float, threads: int, path: Path = FILE) -> list[Projection]:
    """A loader's rate here against each target of its dataset; none where the dataset or the size has none."""
    hosts, targets = read_targets(path)
    return [
        Projection(target, hosts[target.hardware], rate / threads, rate / threads * hosts[target.hardware].vcpus)
        for target in targets
        if target.dataset == dataset and target.image_size == image_size
    ]
