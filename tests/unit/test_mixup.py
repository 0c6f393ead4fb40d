"""Mixup, cutmix, test-time views and progressive sizes: pure functions with figures one can work out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer_classification.augment.mixup import Mixing, Targets
from trainer_classification.plan import Policy
from trainer_classification.training.progressive import image_size, mean_pixels
from trainer_classification.training.tta import check_views, logits_over


def images(rows, side=8):
    return torch.arange(rows, dtype=torch.float32)[:, None, None, None].expand(rows, 3, side, side).contiguous()


def test_without_alphas_nothing_is_mixed():
    x, labels = images(4), torch.arange(4)
    mixed, targets = Mixing(0)(x, labels, 5)
    assert mixed is x
    assert targets.others is None


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_a_row_is_made_of_itself_and_its_neighbour_and_the_share_says_how_much(alphas):
    rows = 64
    mixed, targets = Mixing(3, *alphas)(images(rows, 16), torch.arange(rows), 7)
    expected = targets.share * torch.arange(rows) + (1 - targets.share) * (torch.arange(rows) ^ 1)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), expected, rtol=1e-4, atol=1e-4)
    assert targets.others.tolist() == [row ^ 1 for row in range(rows)]
    assert 0.2 < targets.share.std() + 0.2 < 0.8
    assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_cutmix_pastes_whole_pixels_and_mixup_blends_all_alike():
    pasted, _ = Mixing(0, cutmix=1.0)(images(32, 16), torch.arange(32), 0)
    assert torch.equal(pasted, pasted.round())
    blended, _ = Mixing(0, mixup=1.0)(images(32, 16), torch.arange(32), 0)
    assert torch.equal(blended.amax((1, 2, 3)), blended.amin((1, 2, 3)))


def test_draws_are_pure_and_differ_by_step_and_seed():
    mixing = Mixing(1, 0.2, 1.0)
    assert np.array_equal(mixing.draws(4, 16), mixing.draws(4, 16))
    assert not np.array_equal(mixing.draws(4, 16), mixing.draws(5, 16))
    assert not np.array_equal(mixing.draws(4, 16), Mixing(2, 0.2, 1.0).draws(4, 16))


def test_two_ranks_mix_their_halves_as_one_process_mixes_the_whole():
    x, labels = torch.rand(16, 3, 8, 8), torch.arange(16)
    whole, targets = Mixing(0, 0.3, 1.0)(x, labels, 9)
    for rank in range(2):
        rows = slice(8 * rank, 8 * rank + 8)
        half, half_targets = Mixing(0, 0.3, 1.0, rank, 2)(x[rows], labels[rows], 9)
        assert torch.equal(half, whole[rows])
        assert torch.equal(half_targets.others, targets.others[rows])
        assert torch.equal(half_targets.share, targets.share[rows])


def test_the_last_of_an_odd_number_keeps_to_itself():
    mixed, targets = Mixing(0, mixup=1.0)(images(3), torch.arange(3), 0)
    assert targets.others.tolist() == [1, 0, 2]
    torch.testing.assert_close(mixed[2], images(3)[2])


def test_the_loss_counts_both_labels_by_their_share():
    logits = torch.randn(4, 5)
    labels, others, share = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 0, 3, 2]), torch.tensor([1.0, 0.0, 0.25, 0.5])
    hot = share[:, None] * F.one_hot(labels, 5) + (1 - share[:, None]) * F.one_hot(others, 5)
    expected = F.cross_entropy(logits, hot, label_smoothing=0.1)
    torch.testing.assert_close(Targets(labels, others, share).loss(logits, 0.1), expected)
    parts = Targets(labels, others, share).chunk(2)
    torch.testing.assert_close((parts[0].loss(logits[:2], 0.1) + parts[1].loss(logits[2:], 0.1)) / 2, expected)


class Left(nn.Module):
    """Brightness of the left half, and of the upper row, as logits."""

    def forward(self, x):
        return torch.stack([x[..., : x.shape[-1] // 2].mean((1, 2, 3)), x[:, :, 0].mean((1, 2))], 1)


def test_views_are_averaged_and_a_mirror_image_counts_as_much_as_the_image():
    x = torch.rand(5, 3, 8, 8)
    model = Left()
    assert torch.equal(logits_over(model, x, "none"), model(x))
    flipped = logits_over(model, x, "flip")
    torch.testing.assert_close(flipped[:, 0], x.mean((1, 2, 3)))
    translated = logits_over(model, x, "flip-translate")[:, 1]
    upper, below = x[:, :, 0], x[:, :, 1]  # beyond row 0 lies row 1 again, by reflection
    columns = [1, *range(7)], [*range(1, 8), 6]
    expected = 0.5 * upper.mean((1, 2)) + 0.25 * sum(below[:, :, at].mean((1, 2)) for at in columns)
    torch.testing.assert_close(translated, expected)


def test_views_that_mirror_are_refused_where_training_never_did():
    with pytest.raises(ValueError, match="--flip none"):
        check_views("flip", Policy())
    check_views("none", Policy())
    check_views("flip", Policy(flip="random"))


def test_sizes_grow_from_the_first_to_the_full_one_which_the_last_fifth_has():
    sizes = [image_size(epoch, 20, 96, 192) for epoch in range(20)]
    assert sizes[:10] == [96] * 10
    assert sizes[16:] == [192] * 4
    assert sizes == sorted(sizes)
    assert all(size % 16 == 0 for size in sizes)
    assert {image_size(epoch, 20, 0, 128) for epoch in range(20)} == {128}
    assert image_size(0, 1, 96, 128) == 128  # the last epoch is at full size whatever happens
    assert 0.25 < mean_pixels(20, 96, 192) < 0.6
