import numpy as np
import pytest

from criteria_cli.data.evidence import Span
from criteria_cli.training.evidence_scores import (
    SentenceWeight,
    evidence_score,
    sentence_weights,
    sentences,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I sleep badly. I am tired.", ["I sleep badly.", "I am tired."]),
        ('Why?! "Nothing." He left', ["Why?!", '"Nothing."', "He left"]),
        ("one line\nanother line\n\n  third", ["one line", "another line", "third"]),
        ("Dr. Smith said 3.5 mg, e.g. at night.", ["Dr. Smith said 3.5 mg, e.g. at night."]),
        ("Well… maybe. ok", ["Well…", "maybe.", "ok"]),
        ("no end", ["no end"]),
        ("   ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert [text[span.start : span.end] for span in sentences(text)] == expected


def test_the_sentence_whose_absence_costs_most_comes_first() -> None:
    text = "The bus was late. I cannot sleep. We had soup."

    def score(texts):
        return np.array([4.0 if "sleep" in each else -1.0 for each in texts], dtype=np.float32)

    weights = sentence_weights(text, score)
    assert text[weights[0].span.start : weights[0].span.end] == "I cannot sleep."
    assert weights[0].drop == 5.0
    assert [weight.drop for weight in weights[1:]] == [0.0, 0.0]


def _weights(*spans: tuple[int, int]) -> list[SentenceWeight]:
    return [SentenceWeight(at, Span(*span), -at) for at, span in enumerate(spans)]


def test_precision_at_one_and_what_chance_would_score() -> None:
    right = (_weights((0, 10), (11, 20), (21, 30), (31, 40)), [Span(0, 10)])
    wrong = (_weights((0, 10), (11, 20)), [Span(13, 18)])
    score = evidence_score([right, wrong])
    assert score is not None
    assert (score.precision_at_1, score.pairs) == (0.5, 2)
    assert score.chance == pytest.approx((1 / 4 + 1 / 2) / 2)


def test_posts_of_one_sentence_or_without_annotation_say_nothing() -> None:
    assert (
        evidence_score([(_weights((0, 10)), [Span(0, 10)]), (_weights((0, 5), (6, 9)), [])]) is None
    )
