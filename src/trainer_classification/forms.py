"""`python -m trainer_classification.forms`: make the launch forms `scripts/*.schema.json` from the configs.

For developers, never at run time: the platform reads the committed files. A test fails on a stale one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainer_classification.config import PredictConfig, PrepareConfig, TrainConfig

SCRIPTS = Path(__file__).parents[2] / "scripts"
FORMS: dict[str, tuple[type[Any], int]] = {  # lower is first
    "train": (TrainConfig, 0),
    "prepare": (PrepareConfig, 1),
    "predict": (PredictConfig, 2),
}


def schema(script: str) -> Any:
    """The SDK's CommandBuilderSchema of a script, from the class: from `main` it would nest the options."""
    from hafnia.experiment.command_builder import CommandBuilderSchema

    config, order = FORMS[script]
    built = CommandBuilderSchema.from_function(
        config, name=f"scripts/{script}.py", cmd=f"python scripts/{script}.py", cli_tool="cyclopts"
    )
    built.order = order
    return built


def text(script: str) -> str:
    """What the committed file holds."""
    return json.dumps(schema(script).model_dump(mode="json"), indent=2) + "\n"


if __name__ == "__main__":
    for name in FORMS:
        path = SCRIPTS / f"{name}.schema.json"
        path.write_text(text(name))
        print(f"{path.name}: {len(json.loads(path.read_text())['json_schema']['properties'])} options")
