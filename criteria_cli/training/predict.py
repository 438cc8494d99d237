"""Scores of new posts from a model directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from criteria_cli.data.criteria import Criterion
from criteria_cli.errors import UsageError
from criteria_cli.study.prediction import Decision
from criteria_cli.training.attention import Inputs, choose_forward
from criteria_cli.training.batches import padded_length
from criteria_cli.training.evidence_scores import SentenceWeight, sentence_weights
from criteria_cli.training.export import read_record
from criteria_cli.training.model import load_encoder
from criteria_cli.training.opening import open_device
from criteria_cli.training.token_pairs import PairTemplate, PairTokens
from criteria_cli.training.tokens import Integers, tokenize
from criteria_cli.training.windows import WindowRule

ROWS = 16
"""Pairs that go through the model at once. All of one post: a score must not hang on which other
posts happen to be scored with it, not even in its last digit."""
CARRYING = 3
"""At most this many sentences are named for a decision."""


@dataclass(frozen=True)
class Prediction:
    """What a model says about one pair. Its `repr` shows no text."""

    post_id: str
    criterion_id: str
    probability: float
    """Calibrated, that the post shows the criterion."""
    prediction: Decision
    score: float
    """Log-odds as the model gives them, before calibration."""
    evidence: tuple[SentenceWeight, ...] = ()
    """For a positive decision, if asked for: the sentences that carry it, heaviest first."""


class Predictor:
    """A model directory that `criteria train` wrote, ready to score posts.

    Args:
        directory: the model directory.
        device: `auto`, `cpu` or `cuda:N`.

    Raises:
        UsageError: it is not such a directory, or its files were changed or damaged.
        MachineError: no such device.
    """

    def __init__(self, directory: Path | str, *, device: str = "auto") -> None:
        record, self.report = read_record(Path(directory))
        self.criteria: tuple[Criterion, ...] = record.criteria
        self.calibration = record.calibration
        self.max_length = record.input.max_length
        self._windows = WindowRule.of(record.input)
        self._device = open_device(device)
        encoder = load_encoder(record.input)
        self._head = record.head
        self._tokenizer = encoder.tokenizer
        module: torch.nn.Module = encoder.module
        module.to(self._device.torch_device).eval()
        self._forward = choose_forward(encoder.module, "auto")
        self._template = PairTemplate.of(encoder.tokenizer)
        self._criteria = tokenize(encoder.tokenizer, [each.text for each in self.criteria])

    def predict(
        self,
        posts: Sequence[str] | Mapping[str, str],
        criteria: Sequence[str] | None = None,
        *,
        abstain: bool = False,
        evidence: bool = False,
    ) -> list[Prediction]:
        """What the model says about each post and criterion, post by post.

        Args:
            posts: texts, or texts by post id; without ids they are counted from 0.
            criteria: ids of the criteria asked about; all of them by default.
            abstain: say `abstain` where a decision lies too close to its threshold.
            evidence: name the sentences that carry each positive decision.

        Raises:
            UsageError: a criterion that the model does not know.
        """
        if not isinstance(posts, Mapping):
            posts = {str(number): text for number, text in enumerate(posts)}
        asked = self._indices(criteria)
        texts = list(posts.values())
        scores = self.scores(texts, criteria)
        found = []
        for post_id, text, row in zip(posts, texts, scores, strict=True):
            probabilities = self.calibration.probabilities(row)
            limits = self.calibration.limits(asked, [each.id for each in self.criteria])
            uncertain = self.calibration.uncertain(probabilities, limits) & abstain
            for place, index in enumerate(asked):
                positive = bool(probabilities[place] > limits[place])
                decision: Decision = "present" if positive else "absent"
                carrying: tuple[SentenceWeight, ...] = ()
                if evidence and positive:
                    carrying = self._carrying(text, int(index))
                found.append(
                    Prediction(
                        post_id,
                        self.criteria[index].id,
                        float(probabilities[place]),
                        "abstain" if uncertain[place] else decision,
                        float(row[place]),
                        carrying,
                    )
                )
        return found

    def scores(
        self, posts: Sequence[str], criteria: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Log-odds (posts, criteria) of the positive class, before calibration.

        A post's scores are the same bit for bit whatever it is scored together with.
        """
        asked = self._indices(criteria)
        tokens = self._pair_tokens(posts)
        scores = np.empty((len(posts), len(asked)), dtype=np.float32)
        for post in range(len(posts)):
            scores[post] = self._score(tokens, np.full(len(asked), post), asked)
        return scores

    def cut(self, posts: Sequence[str]) -> NDArray[np.bool_]:
        """Which posts (posts,) are too long to be read whole beside the longest criterion."""
        tokens = self._pair_tokens(posts)
        longest = int(np.argmax(self._criteria.lengths))
        lost = tokens.cut(np.arange(len(posts)), np.full(len(posts), longest))
        return np.asarray(lost > 0)

    def _carrying(self, text: str, criterion: int) -> tuple[SentenceWeight, ...]:
        def score(texts: Sequence[str]) -> NDArray[np.float32]:
            tokens = self._pair_tokens(texts)
            rows = np.arange(len(texts))
            return self._score(tokens, rows, np.full(len(texts), criterion))

        weights = sentence_weights(text, score)
        return tuple(weight for weight in weights[:CARRYING] if weight.drop > 0)

    def _score(
        self, tokens: PairTokens, posts: Integers, criteria: Integers
    ) -> NDArray[np.float32]:
        lengths = tokens.lengths(posts, criteria)
        parts = []
        for part in _runs(tokens.rows(posts, criteria), len(posts)):
            width = padded_length(int(lengths[part].max()), self.max_length)
            batch = tokens.batch(posts[part], criteria[part], width)
            inputs = Inputs.of(batch, self._device.torch_device)
            with torch.no_grad():
                scores = self._head.scores(self._forward(inputs))
                scores = scores if batch.windows is None else batch.windows.pool(scores)
            parts.append(scores.cpu().numpy())
        return np.concatenate(parts)

    def _pair_tokens(self, posts: Sequence[str]) -> PairTokens:
        return PairTokens(
            tokenize(self._tokenizer, posts),
            self._criteria,
            self._template,
            self.max_length,
            cut_left=self._tokenizer.truncation_side == "left",
            windows=self._windows,
        )

    def _indices(self, criteria: Sequence[str] | None) -> Integers:
        if criteria is None:
            return np.arange(len(self.criteria))
        places = {criterion.id: place for place, criterion in enumerate(self.criteria)}
        unknown = [name for name in criteria if name not in places]
        if unknown:
            raise UsageError(
                f"the model knows no criterion `{unknown[0]}`, it knows {', '.join(places)}",
                code="predict.criterion",
            )
        return np.array([places[name] for name in criteria], dtype=np.int64)


def _runs(rows: Integers | None, pairs: int) -> list[slice]:
    """Pairs of one post in runs of at most `ROWS` rows, at least a pair each."""
    counts = np.ones(pairs, dtype=np.int64) if rows is None else rows
    starts = [0]
    taken = 0
    for pair, count in enumerate(counts.tolist()):
        if taken and taken + count > ROWS:
            starts.append(pair)
            taken = 0
        taken += count
    return [slice(start, end) for start, end in pairwise([*starts, pairs]) if start < end]
