"""Report to the experiment tracker through HafniaLogger, from the main thread of rank 0 only.

A failing tracker never ends a training. The logger is not thread-safe, and each
call sends a request in the cloud. So it is called once an epoch and a few hundred
times a run, outside the timed steps. Its file is written once an epoch. The lines
that the logger prints on stdout are the platform's protocol; elsewhere nobody reads
them, and they are dropped.
"""

from __future__ import annotations

import fcntl
import importlib.util
import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    redirect_stdout,
    suppress,
)
from pathlib import Path
from typing import Any

from trainer_classification.console import log
from trainer_classification.environment import in_cloud
from trainer_classification.outputs.hafnia_logger import create_hafnia_logger
from trainer_classification.outputs.metrics_file import MetricsFile
from trainer_classification.outputs.trackers import Writer, open_writer

# By default MLflow's client retries a failing request for four minutes, and each
# metric is a request.
_MLFLOW_DEFAULTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_LOOK_SECONDS = 0.02
_MAX_WAIT = 60.0  # seconds a run waits for the tracker in total; the first second of each call does not count


class Tracker:
    """The folders of an experiment, and its metrics in the tracker.

    Attributes:
        model_dir: folder of the trained model.
        checkpoint_dir: folder of the checkpoints.
        artifact_dir: folder of summary, metrics and report.
        failures: calls of the tracker that failed.

    Args:
        project_name: name of the project in the tracker.
        log_dir: folder that gets `experiments/<time>/`. In the cloud the
            platform's folders are used.
        name: of the run, which the tracker shows and the folder's name ends with;
            empty: none.
        tracker: where metrics go beside Hafnia's, as `--tracker`.
    """

    def __init__(
        self, project_name: str, log_dir: Path, name: str = "", tracker: str = "hafnia"
    ) -> None:
        self.failures = 0
        self._waited = 0.0
        self._writer: Writer | None = None
        with _wait_for_unused_name(log_dir / "experiments"):
            self._logger = _create_logger(project_name, log_dir, name)
            self._make_folders(log_dir / "experiments" / (_name_by_time() + _suffix(name)))
        self._file = None if self._logger is None else MetricsFile(self._logger)
        self._guard(lambda: self._open_writer(tracker))

    def _open_writer(self, tracker: str) -> None:
        self._writer = open_writer(tracker, self.artifact_dir)

    def _make_folders(self, folder: Path) -> None:
        """Create the folders of the experiment: below `folder` if there is no logger."""
        if self._logger is None:
            self.model_dir = folder / "model"
            self.checkpoint_dir = folder / "checkpoints"
            self.artifact_dir = folder / "data"
        else:
            self.model_dir = Path(self._logger.path_model())
            self.checkpoint_dir = Path(self._logger.path_model_checkpoints())
            self.artifact_dir = Path(
                self._logger._path_artifacts()
            )  # the SDK has no public name for it
        for path in (self.model_dir, self.checkpoint_dir, self.artifact_dir):
            path.mkdir(parents=True, exist_ok=True)

    def scalar(self, name: str, value: float, step: int) -> None:
        """Log a metric of a step or an epoch."""
        self._call(lambda logger: logger.log_scalar(name, float(value), int(step)))
        self._write(lambda writer: writer.scalar(name, float(value), int(step)))

    def metric(self, name: str, value: float, step: int = 0) -> None:
        """Log a metric of the whole run."""
        self._call(lambda logger: logger.log_metric(name, float(value), int(step)))
        self._write(lambda writer: writer.scalar(name, float(value), int(step)))

    def epochs(self, history: Sequence[dict[str, Any]]) -> None:
        """End an epoch: write what was logged, and give its row to trackers that keep rows.

        Args:
            history: rows of metrics.jsonl, one for each epoch so far.
        """
        self.flush()
        self._write(lambda writer: writer.epochs(history))

    def flush(self) -> None:
        """Write what was logged to the logger's file."""
        if self._file is not None:
            self._guard(self._file.write)

    def configuration(self, values: dict[str, Any]) -> None:
        """Log the options and the values resolved from them.

        Call it once, with final values: MLflow keeps the first.

        Args:
            values: JSON types only.
        """
        self._call(lambda logger: logger.log_configuration(values))
        self._write(lambda writer: writer.configuration(values))

    def close(self) -> None:
        """End the run in the tracker.

        While an exception propagates, the run is marked as failed or killed,
        which the SDK does not do.
        """
        status = _status(sys.exception())
        self.flush()
        self._call(lambda logger: _end(logger, status))
        self._write(lambda writer: writer.close())
        if self.failures:
            log(f"The tracker failed {self.failures} times; the training is not affected.")

    def _call(self, call: Callable[[Any], None]) -> None:
        if self._logger is None:
            return
        logger = self._logger
        started = time.monotonic()
        with _drop_lines():
            self._guard(lambda: call(logger))
        sys.stdout.flush()  # the platform reads the lines as they come
        self._waited += max(0.0, time.monotonic() - started - 1)
        if self._waited > _MAX_WAIT and getattr(self._logger, "_mlflow_initialized", False):
            self._logger._mlflow_initialized = False
            log(
                f"The run waited {self._waited:.0f} s for the tracker's server: from now on metrics go to the "
                f"tracker's file and to stdout only."
            )

    def _write(self, call: Callable[[Writer], None]) -> None:
        writer = self._writer
        if writer is not None:
            self._guard(lambda: call(writer))

    def _guard(self, call: Callable[[], None]) -> None:
        """Call a tracker; count the call if it fails, and say so the first time."""
        try:
            call()
        except (
            Exception
        ) as error:  # MLflow, HTTP, parquet and disks raise many kinds; none may end a training
            self.failures += 1
            if self.failures == 1:
                log(
                    f"The tracker failed ({type(error).__name__}: {error}); the training continues."
                )


def _drop_lines() -> AbstractContextManager[Any]:
    """Drop what the SDK prints, except in the cloud, where the platform reads it."""
    return nullcontext() if in_cloud() else redirect_stdout(io.StringIO())


def _status(error: BaseException | None) -> str:
    """Return MLflow's name for the end of a run; an error with an exit code was a request to stop."""
    if error is None:
        return "FINISHED"
    stopped = isinstance(error, KeyboardInterrupt) or hasattr(error, "code")
    return "KILLED" if stopped else "FAILED"


def _end(logger: Any, status: str) -> None:
    if getattr(logger, "_mlflow_initialized", False):
        sys.modules["mlflow"].end_run(status=status)
    logger.end_run()


class NullTracker(Tracker):
    """A tracker that reports nothing: of every rank but the first, and of trial runs.

    Args:
        folder: for all files; by default none can be written.
    """

    def __init__(self, folder: Path = Path(os.devnull)) -> None:
        self.failures = 0
        self._waited = 0.0
        self._logger = None
        self._file = None
        self._writer = None
        self.model_dir = self.checkpoint_dir = self.artifact_dir = folder


def _name_by_time() -> str:
    """Return the name of an experiment's folder, as the SDK makes it."""
    return time.strftime("%Y-%m-%dT%H-%M-%S")


@contextmanager
def _wait_for_unused_name(experiments: Path) -> Iterator[None]:
    """Let one run at a time create its folder, in a second in which no other has.

    The SDK names the folder by the second and takes one that is there already. In
    the cloud each run has its own disk.
    """
    if in_cloud():
        yield
        return

    experiments.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(experiments, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        while (experiments / _name_by_time()).exists():
            time.sleep(_LOOK_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _suffix(name: str) -> str:
    return f"-{name}" if name else ""


def _create_logger(project_name: str, log_dir: Path, name: str) -> Any:
    """Create a HafniaLogger; if that fails, log the reason and return None."""
    for variable, value in _MLFLOW_DEFAULTS.items():
        os.environ.setdefault(variable, value)
    if name:
        os.environ["MLFLOW_RUN_NAME"] = name
    try:
        _import_when_used("seedir")
        with _drop_lines():
            logger = create_hafnia_logger(project_name, log_dir)
        if name and not in_cloud():
            _rename_folder(logger, name)
        return logger
    except Exception as error:  # not installed, a folder that cannot be written, or MLflow
        log(f"No HafniaLogger ({type(error).__name__}: {error}); outputs go to {log_dir}.")
        return None


def _import_when_used(name: str) -> None:
    """Let a module be imported when something of it is used first.

    The SDK imports seedir, and with it all names of all emojis, for a drawing of
    folders that no run asks for. That takes as long as the rest of its logger.
    """
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None or spec.loader is None:
        return
    loader = importlib.util.LazyLoader(spec.loader)
    spec.loader = loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)


def _rename_folder(logger: Any, name: str) -> None:
    """Add the run's name to the folder that the SDK has made and names by the time alone."""
    folder = logger._local_experiment_path
    logger._local_experiment_path = folder.rename(folder.with_name(folder.name + _suffix(name)))
    logger.log_file = logger._path_artifacts() / logger.EXPERIMENT_FILE
