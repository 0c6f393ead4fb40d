"""The public names of the package are importable, typed, and import nothing before they are used."""

import subprocess
import sys

import pytest

import trainer_classification


@pytest.mark.parametrize("name", trainer_classification.__all__)
def test_a_public_name_can_be_used(name):
    assert callable(getattr(trainer_classification, name))


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = trainer_classification.nothing


def test_importing_the_package_imports_neither_torch_nor_numpy():
    code = "import sys, trainer_classification; sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
