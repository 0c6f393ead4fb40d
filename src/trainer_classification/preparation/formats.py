"""The formats that prepare can write, by name.

This is the only list of them beside the option in `config.py`.
"""

from __future__ import annotations

from trainer_classification.preparation.format import Format
from trainer_classification.preparation.write_array import ARRAY
from trainer_classification.preparation.write_beton import BETON
from trainer_classification.preparation.write_planes import PLANES
from trainer_classification.preparation.write_tar import TAR

FORMATS: dict[str, Format] = {
    "array": ARRAY,
    "beton": BETON,
    "tar": TAR,
    "planes": PLANES,
}
