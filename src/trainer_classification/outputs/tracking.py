"""The only writer to HafniaLogger: rank 0, its main thread, and never a reason for a training to end.

The logger is not thread-safe, each call rewrites a file and in the cloud makes a request; so it is called per epoch and
a few hundred times a run, outside the timed steps. The lines it prints on stdout are the platform's protocol.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# MLflow's client by itself tries each request for four minutes where the server fails, and each figure is a request.
_MLFLOW = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_PATIENCE = 60.0  # seconds that a run waits for the tracker in all, a second of each call aside


class Tracker:
    """An experiment: its folders, and its figures in the tracker.

    Args:
        project_name: in the tracker.
        log_dir: holds `experiments/<time>/`; in the cloud the platform's folders are used.
    """

    def __init__(self, project_name: str, log_dir: Path) -> None:
        self.failures = 0
        self._waited = 0.0
        self._logger = _logger(project_name, log_dir)
        if self._logger is None:
            folder = log_dir / "experiments" / time.strftime("%Y-%m-%dT%H-%M-%S")
            self.model_dir, self.checkpoint_dir, self.artifact_dir = (
                folder / name for name in ("model", "checkpoints", "data")
            )
        else:
            self.model_dir = Path(self._logger.path_model())
            self.checkpoint_dir = Path(self._logger.path_model_checkpoints())
            self.artifact_dir = Path(self._logger._path_artifacts())  # the SDK has no public name for it
        for folder in (self.model_dir, self.checkpoint_dir, self.artifact_dir):
            folder.mkdir(parents=True, exist_ok=True)

    def scalar(self, name: str, value: float, step: int) -> None:
        """A figure of a step or an epoch."""
        self._call(lambda logger: logger.log_scalar(name, float(value), int(step)))

    def metric(self, name: str, value: float, step: int = 0) -> None:
        """A figure of the whole run."""
        self._call(lambda logger: logger.log_metric(name, float(value), int(step)))

    def configuration(self, values: dict[str, Any]) -> None:
        """The options and what came of them; JSON types only. Call once, with final values: MLflow keeps the first."""
        self._call(lambda logger: logger.log_configuration(values))

    def close(self) -> None:
        """End the run in the tracker: as failed or killed where an error is on its way, which the SDK does not tell."""
        status = _status(sys.exception())
        self._call(lambda logger: _end(logger, status))
        if self.failures:
            print(f"The tracker failed {self.failures} times; the training did not.", file=sys.stderr)

    def _call(self, call: Callable[[Any], None]) -> None:
        if self._logger is None:
            return
        started = time.monotonic()
        try:
            call(self._logger)
            sys.stdout.flush()  # the platform reads along
        except Exception as error:  # whatever MLflow, HTTP or parquet raise: a paid training goes on
            self.failures += 1
            if self.failures == 1:
                print(f"The tracker failed ({type(error).__name__}: {error}); going on without.", file=sys.stderr)
        self._waited += max(0.0, time.monotonic() - started - 1)
        if self._waited > _PATIENCE and getattr(self._logger, "_mlflow_initialized", False):
            self._logger._mlflow_initialized = False
            text = f"The tracker's server kept the run waiting for {self._waited:.0f} s: the figures now go to its file"
            print(f"{text} and to stdout alone.", file=sys.stderr)


def _status(error: BaseException | None) -> str:
    """What MLflow calls the end of a run; an error that carries an exit code was a request to stop."""
    if error is None:
        return "FINISHED"
    return "KILLED" if isinstance(error, KeyboardInterrupt) or hasattr(error, "code") else "FAILED"


def _end(logger: Any, status: str) -> None:
    if getattr(logger, "_mlflow_initialized", False):
        sys.modules["mlflow"].end_run(status=status)
    logger.end_run()


class NullTracker(Tracker):
    """Of a process that tells nobody: every rank but the first, and a run that is only tried.

    Args:
        folder: for all files; by default none can be written.
    """

    def __init__(self, folder: Path = Path(os.devnull)) -> None:
        self.failures, self._logger, self._waited = 0, None, 0.0
        self.model_dir = self.checkpoint_dir = self.artifact_dir = folder


def _logger(project_name: str, log_dir: Path) -> Any:
    """A HafniaLogger, or None, with a line that says why, where it cannot be had."""
    for name, value in _MLFLOW.items():
        os.environ.setdefault(name, value)
    try:
        from hafnia.experiment import HafniaLogger

        return HafniaLogger(project_name=project_name, log_dir=str(log_dir))
    except Exception as error:  # not installed on a bare machine; a folder that cannot be written; MLflow
        print(f"No HafniaLogger ({type(error).__name__}: {error}); outputs go to {log_dir}.", file=sys.stderr)
        return None
