"""An epoch is a row of a table on a terminal, and a line with names elsewhere."""

import re

import pytest

from trainer_classification.console import duration
from trainer_classification.training.epoch_lines import format_heading, format_line, format_row

ROW = {
    "epoch": 9,
    "loss_train": 1.23456,
    "accuracy_train": 0.5,
    "loss_validation": 0.25,
    "accuracy_validation": 1.0,
    "images_per_second": 12345.6,
    "data_wait_fraction": 0.012,
    "seconds": 61.0,
}
WITHOUT = {name: value for name, value in ROW.items() if not name.endswith("validation")}


def plain(text):
    return re.sub(r"\x1b\[\d*m", "", text)


@pytest.mark.parametrize("row", [ROW, WITHOUT, ROW | {"epoch": 400, "seconds": 9999.0}])
def test_the_figures_stand_below_their_names_in_eighty_columns(row):
    heading = plain(format_heading())
    assert len(heading) == 80
    shown = format_row(row, 400)
    ends = [match.end() for match in re.finditer(r"val\. loss|\S+", heading)]
    assert [match.end() for match in re.finditer(r"\S+", shown)] == ends
    assert f"{row['epoch']}/400" in shown
    assert "1.2346" in shown
    assert ("100.00%" in shown) == (row is not WITHOUT)
    assert "12,346" in shown


def test_a_line_names_its_figures_and_says_what_is_left():
    assert format_line(ROW, 30) == (
        "epoch 9/30  loss 1.2346  accuracy 50.00%  validation loss 0.2500  accuracy 100.00%  12,346 img/s  "
        "data-wait 1.20%  61 s, 21:21 min left"
    )
    assert "validation" not in format_line(WITHOUT, 30)
    assert format_line(ROW, 9).endswith("61 s")


@pytest.mark.parametrize(
    ("seconds", "long", "short"), [(45, "45 s", "45s"), (187, "3:07 min", "3:07"), (3729, "1:02:09 h", "1:02:09")]
)
def test_a_table_leaves_the_unit_of_long_times_out(seconds, long, short):
    assert duration(seconds) == long
    assert duration(seconds, short=True) == short
