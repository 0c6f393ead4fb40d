"""Read what T4 and V100 consume from `benchmarks/targets.toml`, and compare loaders with it."""

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
    """The images a second that a network consumes on some hardware.

    Attributes:
        dataset: name of the dataset.
        network: name of the network.
        image_size: side of its images in px.
        hardware: a key of the hosts.
        images_per_second: the rate.
        formula: arithmetic that gives the rate.
        source: where the numbers of the formula are from.
        derived: no published row has this rate.
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
    """The machine that a GPU comes with."""

    name: str
    vcpus: int


@dataclass(frozen=True)
class Projection:
    """A rate measured here and scaled linearly by CPUs to a host.

    It is a projection, not a measurement.

    Attributes:
        target: what the host's GPUs consume.
        host: the host.
        per_core: images a second of one core here.
        images_per_second: projected rate.
    """

    target: Target
    host: Host
    per_core: float
    images_per_second: float

    @property
    def ratio(self) -> float:
        """Projected rate over what the GPUs consume."""
        return self.images_per_second / self.target.images_per_second


def read_targets(path: Path = FILE) -> tuple[dict[str, Host], list[Target]]:
    """Return the hosts by key, and all targets.

    Raises:
        ValueError: a formula does not give its rate.
    """
    content = tomllib.loads(path.read_text())
    hosts = {name: Host(**host) for name, host in content["hosts"].items()}
    targets = [Target(**entry) for entry in content["targets"]]
    for target in targets:
        computed = compute(target.formula)
        if abs(computed / target.images_per_second - 1) > 0.001:
            raise ValueError(
                f"{path}: {target.dataset} on {target.hardware} has {target.images_per_second:g} images a second, but "
                f"its formula {target.formula} gives {computed:.1f}. Correct one of them."
            )

    return hosts, targets


def compute(formula: str) -> float:
    """Compute arithmetic over numbers: + - * / ** and parentheses.

    Raises:
        ValueError: the formula holds anything else.
    """

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return float(_OPERATORS[type(node.op)](value(node.left), value(node.right)))
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return float(node.value)
        raise ValueError(
            f"{formula!r} is not plain arithmetic: use numbers, + - * / ** and parentheses."
        )

    return value(ast.parse(formula, mode="eval").body)


def project_targets(
    dataset: str, image_size: int, rate: float, threads: int, path: Path = FILE
) -> list[Projection]:
    """Project a loader's rate to the host of each target of its dataset and image size.

    Args:
        dataset: name of the dataset.
        image_size: side of the images in px.
        rate: images a second measured here.
        threads: threads that it was measured with.
        path: file of the targets.
    """
    hosts, targets = read_targets(path)
    per_core = rate / threads
    projections = []
    for target in targets:
        if (target.dataset, target.image_size) == (dataset, image_size):
            host = hosts[target.hardware]
            projections.append(Projection(target, host, per_core, per_core * host.vcpus))

    return projections
