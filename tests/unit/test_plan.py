"""Order and draws are pure functions of (seed, epoch), and say what the policies promise."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_classification import plan as planning
from trainer_classification.loaders.base import BatchSchedule
from trainer_classification.plan import Plan, Policy

GOLDEN_ORDER = [37, 189, 246, 296, 22, 27, 339, 279]
GOLDEN_FLIP = [0, 0, 1, 0, 0, 1, 1, 0]
GOLDEN_SHIFT = [[-1, 2], [-1, 0], [3, -3]]
GOLDEN_COLOR = [[266, 316, 180], [188, 315, 229], [355, 284, 224]]
GOLDEN_ERASED = [[0, 0, 0, 0], [43, 28, 86, 69], [0, 0, 0, 0]]  # percent
GOLDEN_OPERATIONS = [
    [65536, 0, 0, 65536, 0, 0, 256, 256, 256, 255, 256, 0],
    [65536, 0, 0, 65536, 0, 0, 256, 256, 256, 255, 26, 0],
]
GOLDEN_BOX = [[49, 29, 282, 347], [199, 14, 103, 78]]
SIZES = np.random.default_rng(0).integers(1, 700, (400, 2))


def test_the_first_ids_and_draws_of_seed_0_never_change():
    """Golden: runs that people resume, and results that they compare, rely on these numbers."""
    plan = Plan(400, 0, Policy(crop="shift", shift=4, flip="random"), SIZES)
    assert plan.order(0)[:8].tolist() == GOLDEN_ORDER
    draws = plan.draws(1)[np.arange(400)]
    assert draws.flip[:8].astype(int).tolist() == GOLDEN_FLIP
    assert draws.shift[:3].tolist() == GOLDEN_SHIFT
    boxes = Plan(400, 0, Policy(crop="resized"), SIZES).draws(0)[np.arange(400)].box * np.tile(SIZES, 2)
    assert np.rint(boxes[:2]).astype(int).tolist() == GOLDEN_BOX
    draws = Plan(400, 0, Policy(color_jitter=0.4, erasing=0.3, rand_augment=9)).draws(1).whole
    assert draws.operations[1].tolist() == GOLDEN_OPERATIONS
    assert draws.color[:3].tolist() == GOLDEN_COLOR
    assert np.rint(draws.erased[2:5] * 100).astype(int).tolist() == GOLDEN_ERASED


def test_new_draws_leave_the_others_as_they_were():
    policy = Policy(crop="shift", shift=4, flip="random", cutout=3)
    more = dataclasses.replace(policy, color_jitter=0.5, erasing=0.5, rand_augment=5)
    ids = np.arange(50)
    one, other = Plan(50, 0, policy).draws(2)[ids], Plan(50, 0, more).draws(2)[ids]
    for name in ("box", "flip", "shift", "cutout"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


def test_colors_and_erased_boxes_are_drawn_within_their_limits():
    draws = Plan(4000, 0, Policy(color_jitter=0.25, erasing=0.4)).draws(0).whole
    assert draws.color.min() == 192
    assert draws.color.max() == 320
    assert draws.color.mean() == pytest.approx(256, abs=1)
    erased = draws.erased[draws.erased[:, 2] > 0]
    assert len(erased) / 4000 == pytest.approx(0.4, abs=0.03)
    assert erased.min() >= 0
    assert erased.max() <= 1
    area = (erased[:, 2] - erased[:, 0]) * (erased[:, 3] - erased[:, 1])
    assert 0.02 <= area.min() < 0.03
    assert 0.32 < area.max() <= 0.3301
    assert (Plan(9, 0, Policy()).draws(0).whole.color == 256).all()


@given(count=st.integers(1, 300), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_an_order_is_a_permutation_and_repeats_for_the_same_seed_and_epoch(count, seed, epoch):
    order = Plan(count, seed, Policy()).order(epoch)
    assert np.array_equal(np.sort(order), np.arange(count))
    assert np.array_equal(order, Plan(count, seed, Policy(flip="random")).order(epoch))


def test_epochs_and_seeds_differ():
    plan = Plan(400, 0, Policy(crop="shift", shift=4, flip="random"))
    assert not np.array_equal(plan.order(0), plan.order(1))
    assert not np.array_equal(plan.order(0), Plan(400, 1, Policy()).order(0))
    assert not np.array_equal(plan.draws(0).whole.shift, plan.draws(1).whole.shift)


@given(count=st.integers(1, 200), batch=st.integers(1, 64), share=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_ranks_partition_each_global_batch_for_any_world_size(count, batch, share):
    world = min(share, batch, count)
    batch = batch // world * world
    order = Plan(count, 3, Policy()).order(0)
    steps = planning.training_batches(order, batch, world)
    used = min(batch, count)
    rows = used // world
    assert steps.shape == (planning.training_steps(count, batch), world, rows)
    for step, ids in enumerate(steps.reshape(len(steps), -1)):
        assert np.array_equal(ids, order[step * used : step * used + rows * world])


@given(count=st.integers(1, 300), batch=st.integers(1, 64), world=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_evaluation_covers_every_sample_once_with_equal_batches_on_all_ranks(count, batch, world):
    steps = planning.evaluation_batches(count, batch, world)
    assert steps.shape[1:] == (world, max(1, min(batch, count) // world))
    assert np.array_equal(steps.ravel()[:count], np.arange(count))
    assert np.all(steps.ravel()[count:] == -1)
    assert np.all(steps[:, 0, 0] >= 0)  # no step without an image


@pytest.mark.parametrize("plan", [None, Plan(11, 0, Policy())])
def test_a_batch_is_a_rank_s_part_of_a_step_and_counts_its_images(plan):
    for rank in range(3):
        schedule = BatchSchedule(plan, 11, 6, rank, 3)
        batches = list(schedule.batches(2, 1))
        assert [index.tolist() for index, _ in batches] == schedule.split_steps(2)[1:, rank].tolist()
        assert len(batches) == schedule.steps - 1
        assert [count for _, count in batches] == [sum(index >= 0) for index, _ in batches]


def test_alternating_flips_change_every_epoch_and_start_half_flipped():
    plan = Plan(1000, 0, Policy(flip="alternating"))
    first, second, third = (plan.draws(epoch).whole.flip for epoch in range(3))
    assert np.array_equal(first, ~second)
    assert np.array_equal(first, third)
    assert 400 < first.sum() < 600


def test_shifts_use_the_whole_reach_in_both_directions_and_no_more():
    shift = Plan(2000, 0, Policy(crop="shift", shift=2)).draws(0).whole.shift
    assert set(np.unique(shift)) == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.25, 1.0), (0.9, 1.0)])
def test_resized_crops_are_whole_pixels_inside_with_the_area_and_aspect_asked_for(area):
    sizes = np.random.default_rng(1).integers(64, 700, (3000, 2))
    draws = Plan(3000, 0, Policy(crop="resized", area=area), sizes).draws(0)
    pixels = draws[np.arange(3000)].box.astype(np.float64) * np.tile(sizes, 2)
    x, y, w, h = np.rint(pixels).T
    assert np.abs(pixels - np.rint(pixels)).max() < 1e-3
    assert (x >= 0).all()
    assert (y >= 0).all()
    assert (x + w <= sizes[:, 0]).all()
    assert (y + h <= sizes[:, 1]).all()
    assert (np.abs(np.log(w / h)) < np.log(4 / 3) + 0.1).all()
    share = w * h / sizes.prod(1)
    drawn = np.abs(np.log(sizes[:, 0] / sizes[:, 1])) < np.log(4 / 3)  # others may end in the fallback
    assert (share[drawn] > area[0] * 0.9).all()
    assert share[drawn].mean() < (area[0] + area[1]) / 2 + 0.05


def test_a_crop_of_an_image_one_pixel_thin_is_one_pixel_thin():
    boxes = Plan(2, 0, Policy(crop="resized"), np.array([[1, 300], [300, 1]])).draws(0)[np.arange(2)].box
    assert boxes[0, 2] == 1.0
    assert boxes[1, 3] == 1.0
    assert (boxes[:, 2:] > 0).all()


def test_the_defaults_of_a_policy_never_change():
    """Runs of older versions are described by what differs from them."""
    policy = dataclasses.asdict(Policy())
    assert policy.pop("fill") == 114
    assert policy.pop("area") == (0.08, 1.0)
    assert policy.pop("aspect") == (0.75, 4 / 3)
    assert (policy.pop("crop"), policy.pop("flip"), policy.pop("pad")) == ("none", "none", "reflect")
    assert not any(policy.values())


def test_by_default_one_process_sees_every_sample():
    assert planning.evaluation_batches(5, 2).tolist() == [[[0, 1]], [[2, 3]], [[4, -1]]]
    assert planning.training_batches(np.arange(7), 2).tolist() == [[[0, 1]], [[2, 3]], [[4, 5]]]


def test_the_largest_color_jitter_changes_colors():
    color = Plan(100, 0, Policy(color_jitter=1)).draws(0).whole.color
    assert color.min() < 50
    assert color.max() > 460


@pytest.mark.parametrize("magnitude", [4, 10])
def test_operations_are_as_large_as_the_magnitude_says(magnitude):
    """By the ranges of the paper's reference code: shears of 0.3, shifts of 0.45, 30 degrees, colors by 0.9."""
    Operation, level = planning.Operation, magnitude / 10
    drawn = planning.draw_operations(np.random.default_rng(0), 4000, magnitude).reshape(-1, 12)
    one, identity = 1 << 16, [1 << 16, 0, 0, 1 << 16, 0, 0, 256, 256, 256, 255, 256, 0]
    cosine, sine = (round(function(math.radians(30 * level)) * one) for function in (math.cos, math.sin))
    changes = {Operation.IDENTITY: [{}], Operation.AUTOCONTRAST: [{11: 1}]}
    changes[Operation.POSTERIZE] = [{9: (255 << round(4 * level)) & 255}]
    changes[Operation.SOLARIZE] = [{10: 256 - round(256 * level)}]
    signed = {
        Operation.SHEAR_Y: lambda sign: {1: round(sign * 0.3 * level * one)},
        Operation.SHEAR_X: lambda sign: {2: round(sign * 0.3 * level * one)},
        Operation.TRANSLATE_Y: lambda sign: {4: round(sign * 0.45 * level * one)},
        Operation.TRANSLATE_X: lambda sign: {5: round(sign * 0.45 * level * one)},
        Operation.ROTATE: lambda sign: {0: cosine, 1: -sign * sine, 2: sign * sine, 3: cosine},
        Operation.BRIGHTNESS: lambda sign: {6: round((1 + sign * 0.9 * level) * 256)},
        Operation.CONTRAST: lambda sign: {7: round((1 + sign * 0.9 * level) * 256)},
        Operation.SATURATION: lambda sign: {8: round((1 + sign * 0.9 * level) * 256)},
    }
    changes |= {kind: [change(1), change(-1)] for kind, change in signed.items()}
    assert changes.keys() == set(Operation)
    expected = set()
    for each in changes.values():
        for change in each:
            row = list(identity)
            for column, value in change.items():
                row[column] = value
            expected.add(tuple(row))
    assert set(map(tuple, drawn.tolist())) == expected


def test_evaluation_changes_nothing():
    draws = planning.identity(3)
    assert draws.box.tolist() == [[0, 0, 1, 1]] * 3
    assert not draws.flip.any()
    assert not draws.shift.any()


def test_more_processes_than_images_in_a_batch_is_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match="fewer --processes"):
        planning.training_batches(np.arange(3), 8, 4)


def test_rows_that_are_all_one_are_taken_without_looking_for_each():
    draws = Plan(5, 0, Policy(crop="shift", shift=2)).draws(0).whole
    for index in (np.array([4, -1, 0]), np.array([0, 1, 2, 3, 4, -1, -1]), slice(1, 3)):
        taken = draws[index]
        for field in dataclasses.fields(draws):
            values = getattr(taken, field.name)
            np.testing.assert_array_equal(values, getattr(draws, field.name)[index])
            assert isinstance(index, slice) or (values.flags.writeable and values.flags.c_contiguous)
    assert draws.cutout.strides == (0, 0)
