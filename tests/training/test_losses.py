import pytest
import torch
from torch.nn import functional

from criteria_cli.study.spec import TrainingSpec
from criteria_cli.training.losses import build_loss

LOGITS = torch.tensor([[2.0, -1.0], [0.1, 0.4], [-3.0, 3.0], [1.0, 1.0]])
LABELS = torch.tensor([0, 1, 0, 1])
SCORES = LOGITS[:, 1] - LOGITS[:, 0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_the_score_is_two_class_cross_entropy(smoothing: float) -> None:
    loss = build_loss(TrainingSpec(label_smoothing=smoothing), 2, 2)
    expected = functional.cross_entropy(LOGITS, LABELS, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(loss(SCORES, LABELS), expected)


def test_positive_weight_multiplies_the_losses_of_positive_pairs() -> None:
    plain = build_loss(TrainingSpec(), 2, 2)(SCORES, LABELS)
    weighted = build_loss(TrainingSpec(positive_weight=3.0), 2, 2)(SCORES, LABELS)
    torch.testing.assert_close(weighted / plain, torch.tensor([1.0, 3.0, 1.0, 3.0]))


def test_focal_loss_is_the_papers_formula() -> None:
    loss = build_loss(TrainingSpec(loss="focal", focal_gamma=2.0), 2, 2)
    of_truth = torch.softmax(LOGITS, dim=1)[torch.arange(4), LABELS]
    torch.testing.assert_close(loss(SCORES, LABELS), -((1 - of_truth) ** 2) * of_truth.log())


def test_focal_loss_with_gamma_zero_is_cross_entropy() -> None:
    focal = build_loss(TrainingSpec(loss="focal", focal_gamma=0.0), 2, 2)
    plain = build_loss(TrainingSpec(), 2, 2)
    torch.testing.assert_close(focal(SCORES, LABELS), plain(SCORES, LABELS))


def test_focal_loss_and_its_gradient_stay_finite_at_extreme_scores() -> None:
    scores = torch.tensor([200.0, -200.0, 200.0, -200.0], requires_grad=True)
    loss = build_loss(TrainingSpec(loss="focal", focal_gamma=0.5), 2, 2)(
        scores, torch.tensor([0, 1, 1, 0])
    )
    loss.sum().backward()
    assert scores.grad is not None
    assert torch.isfinite(loss).all()
    assert torch.isfinite(scores.grad).all()


def test_class_balanced_weights_are_the_papers() -> None:
    beta, positives, negatives = 0.99, 50, 450
    loss = build_loss(
        TrainingSpec(loss="class_balanced", class_balanced_beta=beta), positives, negatives
    )
    positive, negative = loss.weights(torch.tensor([1, 0])).tolist()
    ratio = (1 - beta**negatives) / (1 - beta**positives)
    assert positive / negative == pytest.approx(ratio, rel=1e-5)
    assert positive + negative == pytest.approx(2.0, rel=1e-5)


def test_class_balanced_with_beta_zero_is_cross_entropy() -> None:
    balanced = build_loss(TrainingSpec(loss="class_balanced", class_balanced_beta=0.0), 10, 90)
    plain = build_loss(TrainingSpec(), 10, 90)
    torch.testing.assert_close(balanced(SCORES, LABELS), plain(SCORES, LABELS))


def test_a_fold_without_a_positive_pair_still_has_a_finite_loss() -> None:
    loss = build_loss(TrainingSpec(loss="class_balanced"), 0, 90)
    assert torch.isfinite(loss(SCORES, LABELS)).all()


def test_bfloat16_scores_are_judged_in_float32() -> None:
    assert build_loss(TrainingSpec(), 2, 2)(SCORES.bfloat16(), LABELS).dtype == torch.float32
