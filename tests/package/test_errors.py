"""The troubleshooting table of docs/training-aas.md quotes what the CLI really says."""

from pathlib import Path

import pytest

TABLE = (Path(__file__).parents[2] / "docs/training-aas.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("experiment create_recipe", "No such command 'create_recipe'"),
        ("experiment create classifier . train mnist", "Got unexpected extra arguments (classifier . train mnist"),
        ("trainer update ID ../dir", "Got unexpected extra argument (../dir)"),
        ("trainer ls", "No active profile configured"),
        ("runc launch-local --dataset . python", "State file does not exist"),
    ],
)
def test_the_errors_in_the_table_are_the_clis_own(hafnia, tmp_path, arguments, said):
    assert said in hafnia(*arguments.split(" "), code=None, folder=tmp_path)
    assert said in TABLE
