"""A model on its device with the corpus's tokens: what a trainer loads once and keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from criteria_cli.data.corpus import Corpus
from criteria_cli.study.messages import Learned, TrainerSetup
from criteria_cli.study.spec import ModelSpec
from criteria_cli.training.admission import Admission, admit
from criteria_cli.training.attention_choice import settle_attention
from criteria_cli.training.devices import Device, Precision
from criteria_cli.training.examples import Examples
from criteria_cli.training.model import Encoder, load_encoder, structure
from criteria_cli.training.probe import ProbeSettings
from criteria_cli.training.resident import ResidentModel
from criteria_cli.training.token_pairs import PairTemplate, PairTokens, check_assembly
from criteria_cli.training.tokens import TokenTexts, cached_tokens
from criteria_cli.training.windows import WindowRule

CACHE = "cache"
"""The folder for tokens and the like, beside the trials."""


@dataclass(frozen=True)
class Loaded:
    """A model and its tokens: what follows from `model.name` and `model.head`."""

    model: ResidentModel
    admission: Admission
    posts: TokenTexts
    criteria: TokenTexts
    template: PairTemplate
    cut_left: bool

    def examples(self, corpus: Corpus, spec: ModelSpec) -> Examples:
        """The corpus's pairs as the model reads them."""
        tokens = PairTokens(
            self.posts,
            self.criteria,
            self.template,
            spec.max_length,
            cut_left=self.cut_left,
            windows=WindowRule.of(spec),
        )
        return Examples.of(corpus, tokens)


class Shelf:
    """Holds one loaded model, and loads another in its place where a trial asks for one.

    Args:
        learn: hears of memory models and the like that are new, for the store.
    """

    def __init__(
        self,
        setup: TrainerSetup,
        device: Device,
        precision: Precision,
        corpus: Corpus,
        learn: Callable[[Learned], None],
    ) -> None:
        self._setup = setup
        self._device = device
        self._precision = precision
        self._corpus = corpus
        self._learn = learn
        self._loaded: Loaded | None = None
        self._loaded_as: tuple[object, ...] = ()

    def take(self, spec: ModelSpec) -> Loaded:
        """The model that `spec` names, the one held if it is the same."""
        wanted = structure(spec)
        if self._loaded is None or self._loaded_as != wanted:
            self._loaded = None  # before the next is built: never two models in memory
            with self._device.use():
                self._loaded = self._load(spec)
            self._loaded_as = wanted
        return self._loaded

    def tell(self, admission: Admission) -> None:
        """Let the store know of a memory model that is new or was lowered."""
        news = admission.learned()
        if news is not None:
            self._learn(Learned(*news))

    def _load(self, spec: ModelSpec) -> Loaded:
        corpus, cache = self._corpus, self._setup.directory / CACHE
        criteria = [criterion.text for criterion in corpus.criteria]
        encoder = load_encoder(spec, lambda: [*corpus.texts, *criteria], cache)
        tokenizer = encoder.tokenizer
        admission = self._admit(encoder, spec)
        model = ResidentModel(encoder, self._device, admission.planner, self._precision)
        settle_attention(
            model,
            spec,
            study_seconds=self._study_seconds(admission, spec),
            key=admission.key,
            known=self._setup.memory,
            learn=lambda key, choice: self._learn(Learned(key, choice)),
        )
        loaded = Loaded(
            model=model,
            admission=admission,
            posts=cached_tokens(tokenizer, corpus.texts, cache),
            criteria=cached_tokens(tokenizer, criteria, cache),
            template=PairTemplate.of(tokenizer),
            cut_left=tokenizer.truncation_side == "left",
        )
        self._check_assembly(loaded, spec, criteria)
        return loaded

    def _study_seconds(self, admission: Admission, spec: ModelSpec) -> float:
        """Of training in all trials, if none is pruned and every pair were of full length."""
        study, limits = self._setup.spec, admission.planner.limits
        rows = limits.max_rows(spec.max_length)
        a_pair = limits.cost(rows, spec.max_length) / rows
        epochs = study.validation.fold_count * study.training.epochs
        return study.budget.trials * epochs * len(self._corpus) * a_pair

    def _check_assembly(self, loaded: Loaded, spec: ModelSpec, criteria: Sequence[str]) -> None:
        """Hold a short pair and a long one against the tokenizer's own."""
        posts = np.argsort(loaded.posts.lengths, kind="stable")[[0, -1]]
        longest = np.full(2, loaded.criteria.lengths.argmax())
        check_assembly(
            PairTokens(
                loaded.posts,
                loaded.criteria,
                loaded.template,
                spec.max_length,
                cut_left=loaded.cut_left,
            ),
            loaded.model.encoder.tokenizer,
            [
                (self._corpus.texts[int(post)], criteria[int(criterion)])
                for post, criterion in zip(posts, longest, strict=True)
            ],
            posts,
            longest,
        )

    def _admit(self, encoder: Encoder, spec: ModelSpec) -> Admission:
        """What fits on the device of the study's largest step, with the model that `spec` names."""
        largest = ProbeSettings.of(self._setup.spec, self._device.spelled, spec)
        admission = admit(
            self._device,
            self._precision,
            largest.model,
            largest.training,
            encoder.module,
            known=self._setup.memory,
        )
        self.tell(admission)
        return admission
