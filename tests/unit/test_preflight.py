"""The sample of --preflight names all bad images, and agrees with what --on-bad-image accepts."""

import pytest

from helpers import rows, write_dataset
from trainer_classification.config import TrainConfig
from trainer_classification.training.preflight import decode_sample


@pytest.fixture
def dataset(tmp_path):
    """Of 16 images the first, the sixth and the last are bad, one of them as it is not there."""
    data = rows(16)
    data[0]["data"] = b"no image"
    data[5]["data"] = None
    data[15]["data"] = data[15]["data"][:40]
    return str(write_dataset(tmp_path / "bad", data, ["a", "b"]))


@pytest.mark.parametrize("policy", ["auto", "fail"])
def test_all_bad_images_are_named_in_one_error(dataset, policy):
    with pytest.raises(ValueError, match="3 of a sample of 16 of 16 images") as caught:
        decode_sample(TrainConfig(dataset=dataset, on_bad_image=policy))
    for name in ("00000.png: ", "00005.png: ", "00015.png: "):
        assert name in str(caught.value)


def test_bad_images_that_are_left_out_do_not_stop_a_run(dataset):
    said = decode_sample(TrainConfig(dataset=dataset, on_bad_image="skip"))
    assert "3 of them bad and left out" in said
    assert "00015.png: " in said


def test_a_sound_sample_has_nothing_bad(tmp_path):
    dataset = str(write_dataset(tmp_path / "good", rows(16), ["a", "b"]))
    said = decode_sample(TrainConfig(dataset=dataset))
    assert said.startswith("16 of 16 images of tiny, ")
    assert "bad" not in said
