"""Make the launch forms `scripts/*.schema.json` from the configs: `python -m trainer_classification.forms`.

Only developers run this. The platform reads the committed files, and a test fails
if one is out of date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainer_classification.config import COMMANDS

SCRIPTS = Path(__file__).parents[2] / "scripts"


def schema(script: str) -> Any:
    """Build the SDK's CommandBuilderSchema of a script.

    It is built from the config class, because from the script's `main` the SDK
    would nest the options.
    """
    from hafnia.experiment.command_builder import CommandBuilderSchema

    form = CommandBuilderSchema.from_function(
        COMMANDS[script],
        name=f"scripts/{script}.py",
        cmd=f"python scripts/{script}.py",
        cli_tool="cyclopts",
    )
    form.order = [*COMMANDS].index(script)

    return form


def text(script: str) -> str:
    """Return the content of the file to commit."""
    return json.dumps(schema(script).model_dump(mode="json"), indent=2) + "\n"


if __name__ == "__main__":
    for name in COMMANDS:
        path = SCRIPTS / f"{name}.schema.json"
        path.write_text(text(name), encoding="utf-8")
        options = json.loads(path.read_text(encoding="utf-8"))["json_schema"]["properties"]
        print(f"{path.name}: {len(options)} options")
