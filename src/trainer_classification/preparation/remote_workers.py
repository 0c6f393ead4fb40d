"""Run the jobs of prepare on other machines, through Dask or Ray.

A job is a function of its images and options, and writes its results to the
working folder. So every machine has to see the dataset and `--prepared` under the
same paths, and to have this package installed. A job that runs twice, because its
first worker was thought to be lost, writes the same bytes.

https://distributed.dask.org/en/stable/, https://docs.ray.io/en/latest/ray-core/
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from trainer_classification.extras import import_from_extra

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_RETRIES = 3  # of a job whose worker was lost


class RemoteWorkers(ABC):
    """Processes on other machines. They keep the connection until `close`."""

    @abstractmethod
    def map(self, function: Callable[[Piece], Result], pieces: Sequence[Piece]) -> Iterator[Result]:
        """Call a function of a module for each piece, anywhere, and yield the results in order.

        Raises:
            BrokenProcessPool: the workers of one piece were lost again and again.
            Exception: as the function does.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what was asked for, and leave the cluster as it is."""


class DaskWorkers(RemoteWorkers):
    """The workers of a Dask cluster.

    Args:
        address: of its scheduler, such as tcp://host:8786.

    Raises:
        ValueError: the extra `dask` is not installed, or no scheduler answers.
    """

    def __init__(self, address: str) -> None:
        self._distributed = import_from_extra("distributed", "dask")
        try:
            self._client = self._distributed.Client(address, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"No Dask scheduler answers at {address}: start one with `dask scheduler`, and workers with "
                f"`dask worker {address} --nthreads 1` ({error})."
            ) from None

    def map(self, function: Callable[[Piece], Result], pieces: Sequence[Piece]) -> Iterator[Result]:
        """See `RemoteWorkers`."""
        # Not pure: Dask would take an equal call of an earlier run for done.
        futures = self._client.map(function, pieces, pure=False)
        for future in futures:
            try:
                yield future.result()
            except self._distributed.KilledWorker as error:
                raise BrokenProcessPool(str(error)) from error

    def close(self) -> None:
        """See `RemoteWorkers`."""
        self._client.close()


class RayWorkers(RemoteWorkers):
    """The workers of a Ray cluster.

    Args:
        address: of the cluster, such as ray://host:10001 or auto; "local": started
            here.

    Raises:
        ValueError: the extra `ray` is not installed, or no cluster answers.
    """

    def __init__(self, address: str) -> None:
        self._ray = import_from_extra("ray", "ray")
        try:
            self._ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # it raises plain ones, as where starting takes too long
            raise ValueError(
                f"No Ray cluster answers at {address}: start one with `ray start --head`, and join it with "
                f"`ray start --address HOST:6379` ({error})."
            ) from None

    def map(self, function: Callable[[Piece], Result], pieces: Sequence[Piece]) -> Iterator[Result]:
        """See `RemoteWorkers`."""
        remote = self._ray.remote(max_retries=_RETRIES)(function)
        waiting = [remote.remote(piece) for piece in pieces]
        for one in waiting:
            try:
                yield self._ray.get(one)
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except self._ray.exceptions.RayError as error:
                raise BrokenProcessPool(str(error)) from error

    def close(self) -> None:
        """See `RemoteWorkers`."""
        self._ray.shutdown()


def connect(executor: str, address: str) -> RemoteWorkers:
    """Connect to a cluster.

    Args:
        executor: "dask" or "ray".
        address: of the cluster.

    Raises:
        ValueError: there is no address, its extra is not installed, or nothing
            answers.
    """
    if not address:
        raise ValueError(
            f"--executor {executor} needs --executor-address: tcp://HOST:8786 of a Dask scheduler; ray://HOST:10001, "
            f"auto or local for Ray."
        )
    return {"dask": DaskWorkers, "ray": RayWorkers}[executor](address)
