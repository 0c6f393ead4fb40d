"""Make a HafniaLogger that leaves no part of a file behind on a full disk."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer_classification.console import log

_HINT = "HOW_TO_STORE_YOUR_MODEL.txt"


def create_hafnia_logger(project_name: str, log_dir: Path) -> Any:
    """Create the logger of an experiment, whose folders it makes.

    Args:
        project_name: name of the project in the tracker.
        log_dir: folder that gets `experiments/<time>/`.
    """
    from hafnia.experiment import HafniaLogger

    class WholeFilesLogger(HafniaLogger):
        """The SDK writes its files in place, and goes on where that fails."""

        def __init__(self) -> None:
            try:
                super().__init__(project_name=project_name, log_dir=str(log_dir))
            except OSError:
                with suppress(OSError):
                    (self.path_model() / _HINT).unlink()
                raise

        def log_hparams(self, params: dict[str, Any], fname: str = "hparams.json") -> None:
            super().log_hparams(params, fname)
            path = self._path_artifacts() / fname
            if not _is_json(path):
                path.unlink(missing_ok=True)
                log(
                    f"The tracker could not write {fname}: is the disk full? The training continues."
                )

    # Its __del__ reads this, and would print a traceback for a logger whose __init__
    # failed before it was set.
    WholeFilesLogger._mlflow_initialized = False
    return WholeFilesLogger()


def _is_json(path: Path) -> bool:
    """Return whether a file is there, and whole."""
    with suppress(OSError, ValueError):
        json.loads(path.read_text(encoding="utf-8"))
        return True
    return False
