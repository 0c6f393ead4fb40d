"""Classes weigh n / (K * n_k) in the loss of a step and of a head, whatever else shapes the loss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trainer_classification.augment.mixup import Mixing, Targets
from trainer_classification.metrics.calibration import cross_entropy, fit_temperature
from trainer_classification.optim.class_weights import balance_classes
from trainer_classification.optim.logistic_regression import fit_head

COUNTS = [40, 8, 0, 2]  # images of each class
LABELS = torch.arange(4).repeat_interleave(torch.tensor(COUNTS))[torch.randperm(50, generator=torch.manual_seed(2))]
LOGITS = torch.randn(50, 4, generator=torch.manual_seed(0))
WEIGHTS = balance_classes(COUNTS)


def test_weights_have_mean_one_over_the_images_and_each_class_has_the_same_sum():
    assert WEIGHTS[LABELS].mean() == pytest.approx(1)
    sums = [float(WEIGHTS[LABELS][label == LABELS].sum()) for label in (0, 1, 3)]
    assert sums == pytest.approx([50 / 3] * 3)
    assert WEIGHTS[2] == 0
    assert balance_classes([7, 7]).tolist() == [1, 1]


def test_without_smoothing_the_loss_is_that_of_torch_over_the_number_of_images():
    expected = F.cross_entropy(LOGITS, LABELS, weight=WEIGHTS, reduction="sum") / 50
    torch.testing.assert_close(Targets(LABELS).loss(LOGITS, 0.0, WEIGHTS), expected)
    weighted_mean = F.cross_entropy(LOGITS, LABELS, weight=WEIGHTS)
    torch.testing.assert_close(expected, weighted_mean)  # over all images the weights have mean 1


def test_smoothing_weighs_the_whole_target_by_the_label():
    target = 0.7 * F.one_hot(LABELS, 4) + 0.3 / 4
    per_image = -(target * LOGITS.log_softmax(1)).sum(1)
    torch.testing.assert_close(Targets(LABELS).loss(LOGITS, 0.3, WEIGHTS), (WEIGHTS[LABELS] * per_image).mean())


def test_in_a_mixed_image_each_label_has_its_weight():
    others = LABELS.roll(1)
    share = torch.rand(50, generator=torch.manual_seed(1))
    own = WEIGHTS[LABELS] * F.cross_entropy(LOGITS, LABELS, reduction="none")
    other = WEIGHTS[others] * F.cross_entropy(LOGITS, others, reduction="none")
    mixed = Targets(LABELS, others, share)
    torch.testing.assert_close(mixed.loss(LOGITS, 0.0, WEIGHTS), (share * own + (1 - share) * other).mean())


@pytest.mark.parametrize("mixing", [Mixing(0), Mixing(0, 0.4, 1.0)])
def test_parts_of_a_batch_add_up_to_the_whole(mixing):
    _, targets = mixing(torch.zeros(50, 1, 4, 4), LABELS, 0)
    parts = zip(LOGITS.chunk(4), targets.chunk(4), strict=True)
    summed = sum(target.loss(rows, 0.1, WEIGHTS) * len(rows) / 50 for rows, target in parts)
    torch.testing.assert_close(summed, targets.loss(LOGITS, 0.1, WEIGHTS))


def test_a_head_is_fitted_as_if_rare_classes_had_as_many_images():
    labels = torch.cat([torch.zeros(60), torch.ones(12)]).long()
    features = torch.randn(72, 5, generator=torch.manual_seed(0)) + 0.7 * labels[:, None]
    weighted = fit_head(features, labels, 2, 0.01, class_weights=balance_classes([60, 12]))

    repeats = torch.where(labels == 1, 5, 1)
    scale = features.std() / features.repeat_interleave(repeats, 0).std()  # of the head's own scaling
    repeated = fit_head(
        features.repeat_interleave(repeats, 0), labels.repeat_interleave(repeats), 2, 0.01 * float(scale**2)
    )
    torch.testing.assert_close(weighted(features), repeated(features), rtol=0.02, atol=0.02)
    plain = fit_head(features, labels, 2, 0.01)
    assert (weighted(features).argmax(1) == 1).sum() > (plain(features).argmax(1) == 1).sum()


def test_weighted_images_count_as_if_they_were_repeated():
    logits, labels = LOGITS.numpy(), LABELS.numpy()
    repeats = np.where(labels == 0, 1, 3)
    repeated = np.repeat(logits, repeats, 0), np.repeat(labels, repeats)
    assert cross_entropy(logits, labels, 1.5, repeats.astype(float)) == pytest.approx(cross_entropy(*repeated, 1.5))
    sure = np.where(labels == 0, 3, 1).astype(np.float32)  # classes of which the model is sure to different degrees
    logits = logits + sure[:, None] * np.eye(4, dtype=np.float32)[labels]
    repeated = np.repeat(logits, repeats, 0), np.repeat(labels, repeats)
    weighted = fit_temperature(logits, labels, repeats.astype(float))
    assert weighted.temperature == pytest.approx(fit_temperature(*repeated).temperature)
    assert weighted.temperature != pytest.approx(fit_temperature(logits, labels).temperature, rel=1e-3)
