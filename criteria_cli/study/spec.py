"""A study definition as its file says it: frozen, complete, and refusing keys it does not know.

A key that no code reads cannot stand here. Settings of two kinds live side by side: *identity*,
which the first worker freezes in the store, and *local* (`LOCAL_KEYS`), free on each worker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from criteria_cli.study.headroom import parse_headroom
from criteria_cli.study.pruning_rules import pruning_problem

Scalar = bool | int | float | str

SCHEMA = 1
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")

LOCAL_KEYS = frozenset(
    {
        "data.path",
        "model.compile",
        "training.eval_batch_size",
        "training.auto_detect_batch_size",
        "training.vram_headroom",
        "budget.trials",
        "budget.confirm",
    }
)
"""Settings that may differ between the workers of one study, or change while it runs."""

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class Columns(_Section):
    """The column names of a pairs table."""

    post_id: str = "post_id"
    post: str = "post"
    criterion: str = "DSM5_symptom"
    """Holds a criterion's id or name."""
    label: str = "groundtruth"
    group: str | None = None
    """What must stay on one side of a split; without it, the post id."""


class DataSpec(_Section):
    """Which pairs of post and criterion the study learns from."""

    format: Literal["redsm5", "pairs", "synthetic"] = "redsm5"
    """`redsm5`: a folder with posts and annotations. `pairs`: one table. `synthetic`: a generated
    corpus in the ReDSM5 layout, for trying things out."""
    path: str | None = None
    """The folder or table, relative to the study file."""
    criteria: str = "dsm5-mdd"
    """The bundled paraphrases of criteria A.1 to A.9, or a JSON file of your own."""
    columns: Columns = Columns()
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """The separator of CSV files."""
    posts: Annotated[int, Field(ge=10)] = 160
    """How many posts a synthetic corpus has."""

    @model_validator(mode="after")
    def _needs_a_path(self) -> Self:
        if self.format != "synthetic" and self.path is None:
            raise ValueError(f"format `{self.format}` needs `data.path`")
        return self

    @model_validator(mode="after")
    def _acts(self) -> Self:
        idle = ("path", "columns", "delimiter") if self.format == "synthetic" else ("posts",)
        for name in idle:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"format `{self.format}` does not read `data.{name}`")
        if self.format == "redsm5" and self.columns != Columns(group=self.columns.group):
            raise ValueError("format `redsm5` reads no other `data.columns` than `group`")
        return self


class ModelSpec(_Section):
    """The checkpoint that is fine-tuned and how a pair becomes its input."""

    name: str = "microsoft/deberta-v3-base"
    """A Hugging Face name or a local directory, or `builtin:tiny-deberta-v2`, a small model with
    random weights and a tokenizer trained on the study's own texts."""
    max_length: Annotated[int, Field(ge=16)] = 512
    """Tokens of a pair; a longer post is cut, a criterion never."""
    long_posts: Literal["truncate", "windows"] = "truncate"
    """What happens to a post that is too long: its end goes, or it is read in windows."""
    window_overlap: Annotated[float, Field(ge=0.0, le=0.9)] = 0.25
    """The least share of a window that the next one repeats."""
    max_windows: Annotated[int, Field(ge=2)] = 8
    """Windows of a pair at most; a still longer post has them further apart."""
    window_pooling: Literal["max", "logsumexp"] = "max"
    """One score from all windows': the highest, or the log of the sum of their odds."""
    head: Literal["auto", "two_logits", "one_logit", "entailment"] = "auto"
    """How the score is read: `auto` keeps the one logit of a reranker and the entailment
    direction of an NLI checkpoint, and gives every other encoder two logits."""
    attention: Literal["auto", "reference"] = "auto"
    """`auto` computes DeBERTa-v2 and v3 in a faster order, equal up to rounding; `reference` runs
    the code of transformers."""
    compile: Literal["auto"] | bool = "auto"
    """Run DeBERTa-v2 and v3 through `torch.compile`: `auto` where that is measured to be faster on
    the card at hand, true always, false never."""
    hidden_dropout: Fraction | None = None
    attention_dropout: Fraction | None = None
    classifier_dropout: Fraction | None = None
    """Dropout rates; without one, the checkpoint's own."""
    lora: bool = False
    """Train low-rank additions to the encoder's matrices instead of the matrices (Hu et al., 2022).
    Needs the extra `lora`."""
    lora_rank: Annotated[int, Field(ge=1)] = 8
    lora_alpha: Positive = 16.0
    """The additions are scaled by this over the rank."""
    lora_dropout: Fraction = 0.0
    lora_targets: Literal["attention", "all"] = "attention"
    """Which matrices get additions: those of attention, or all of the encoder's layers."""


class ValidationSpec(_Section):
    """How a trial is scored."""

    scheme: Literal["kfold", "holdout"] = "kfold"
    folds: Annotated[int, Field(ge=2, le=1000)] = 5
    train_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8
    """The training share of a holdout split."""
    seed: int = 42
    metric: Literal["f1", "macro_f1", "average_precision"] = "f1"
    """`f1`: of the positive class, pooled over criteria. `macro_f1`: its mean over criteria."""

    @property
    def fold_count(self) -> int:
        """Validation splits of a trial: `folds`, or 1 for a holdout."""
        return self.folds if self.scheme == "kfold" else 1


class TrainingSpec(_Section):
    """The values of a run; a searched one is replaced by what the trial samples."""

    epochs: Annotated[int, Field(ge=1)] = 100
    early_stopping_patience: Annotated[int, Field(ge=1)] = 20
    """Epochs without a better validation score after which a fold ends."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """The effective batch: the pairs behind one optimiser step, exactly."""
    eval_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """The evaluation micro-batch; `auto` is the largest that fits."""
    auto_detect_batch_size: bool = True
    """Measure the device's memory and split batches to fit; off, a batch goes through whole."""
    vram_headroom: float | str = 0.10
    """What is left free on the card: a share of its total, or bytes such as `2GiB`."""
    learning_rate: Positive = 1e-5
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    warmup_ratio: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """The share of all optimiser steps over which the learning rate rises."""
    scheduler: Literal["linear", "cosine", "cosine_with_restarts", "constant"] = "linear"
    scheduler_cycles: Annotated[int, Field(ge=2)] = 3
    """Cosine waves of `cosine_with_restarts`."""
    loss: Literal["cross_entropy", "focal", "class_balanced"] = "cross_entropy"
    focal_gamma: Annotated[float, Field(ge=0.0)] = 2.0
    """The focusing exponent of the focal loss (Lin et al., 2017)."""
    class_balanced_beta: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """The effective-number base of the class-balanced loss (Cui et al., 2019)."""
    positive_weight: Positive = 1.0
    """The weight of a positive pair in the loss; a negative one weighs 1."""
    label_smoothing: Fraction = 0.0
    max_grad_norm: Positive = 1.0
    layerwise_lr_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Each layer below the top learns at this fraction of the rate of the one above it."""
    frozen_layers: Annotated[int, Field(ge=0)] = 0
    """The embeddings and this many of the lowest layers stay as they are; 0 freezes nothing."""
    negatives_per_positive: Positive | None = None
    """Keep at most this many negatives per positive in training folds, drawn anew per epoch."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` is bf16 where the device has it, else fp32."""

    @field_validator("vram_headroom")
    @classmethod
    def _headroom(cls, value: float | str) -> float | str:
        parse_headroom(value)
        return value


class AugmentationSpec(_Section):
    """Rewriting the evidence of positive pairs, in training folds only."""

    enable: bool = False
    method: Literal["synonym", "contextual"] = "synonym"
    probability: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3
    """The share of positive pairs with evidence that are rewritten in an epoch."""
    words: Annotated[float, Field(gt=0.0, le=1.0)] = 0.15
    """The share of an evidence sentence's words that are replaced."""
    variants: Annotated[int, Field(ge=1)] = 4
    """Rewritings made once per pair and reused."""
    language_model: str = "distilbert/distilroberta-base"
    """The masked language model of `contextual`, a Hugging Face name or a local directory."""


class Parameter(_Section):
    """What a trial samples for one setting: a range or a list of choices."""

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: int | float | None = None
    choices: tuple[Scalar, ...] | None = None
    when: str | dict[str, Scalar] | None = None
    """Sampled only if this setting is true, or if each named setting has the value."""

    @field_validator("choices", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _range_or_choices(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log or self.step is not None:
                raise ValueError("give `choices` or a range, not both")
            if not self.choices:
                raise ValueError("choices is empty")
            seen: set[str] = set()
            for choice in self.choices:
                if repr(choice) in seen:
                    raise ValueError(f"choice {choice} is listed twice")
                seen.add(repr(choice))
            return self
        if self.low is None or self.high is None:
            raise ValueError("needs `low` and `high`, or `choices`")
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError("a log range must start above 0")
        if self.log and self.step is not None:
            raise ValueError("a log range takes no `step`")
        return self

    @property
    def integer(self) -> bool:
        """Whether a range runs over whole numbers."""
        return self.choices is None and all(
            isinstance(bound, int) for bound in (self.low, self.high, self.step or 1)
        )

    @property
    def conditions(self) -> dict[str, Scalar]:
        """`when` as values by setting name."""
        if self.when is None:
            return {}
        return {self.when: True} if isinstance(self.when, str) else dict(self.when)

    def extremes(self) -> tuple[Scalar, ...]:
        """Every choice, or both ends of the range: what the setting must accept."""
        if self.choices is not None:
            return self.choices
        assert self.low is not None
        assert self.high is not None
        return (self.low, self.high)


class Patience(_Section):
    """Stop a trial after this many folds in a row that disappoint."""

    folds: Annotated[int, Field(ge=1)] = 2
    against: Literal["incumbent", "self"] = "incumbent"
    """`incumbent`: below the best complete trial on the same fold. `self`: not above the trial's
    own best fold."""
    margin: Annotated[float, Field(ge=0.0)] = 1.0
    """How far below the incumbent disappoints, in standard deviations of a difference on one fold;
    0 is any amount. Not read by `self`."""


class PrunerSpec(_Section):
    """Which trials are stopped before their last fold."""

    type: Literal["hyperband", "racing", "racing+hyperband", "median", "none"] = "hyperband"
    resource: Literal["fold", "epoch"] = "fold"
    """What a rung counts: folds, or epochs through all folds. Racing looks at both."""
    min_resource: Annotated[int, Field(ge=1)] = 1
    max_resource: Annotated[int, Field(ge=1)] | None = None
    """What a trial reports: its folds, or its folds times its epochs, and so found without this."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    startup_trials: Annotated[int, Field(ge=0)] = 10
    """The first trials run to the end, as a baseline."""
    error_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Racing stops at most this share of the trials that would have beaten the incumbent."""
    patience: Patience | None = None


class SamplerSpec(_Section):
    """How a trial's values are drawn."""

    type: Literal["tpe", "random"] = "tpe"
    seed: int = 42
    startup_trials: Annotated[int, Field(ge=0)] = 10
    """Trials drawn at random before the model of the space is used."""


class BudgetSpec(_Section):
    """When the study is finished."""

    trials: Annotated[int, Field(ge=1)] = 2000
    """Finished trials over all workers and restarts."""
    confirm: Annotated[int, Field(ge=0)] = 0
    """Stopped trials, the most promising first, that are run to the end when these are done."""


@dataclass(frozen=True)
class Hyperparameters:
    """One trial's settings, complete: the definition's values with the sampled ones in place."""

    model: ModelSpec
    training: TrainingSpec
    augmentation: AugmentationSpec

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name).model_dump(mode="json") for name in SEARCHABLE}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Hyperparameters:
        return cls(
            model=ModelSpec.model_validate(value["model"]),
            training=TrainingSpec.model_validate(value["training"]),
            augmentation=AugmentationSpec.model_validate(value["augmentation"]),
        )


SEARCHABLE: dict[str, type[_Section]] = {
    "model": ModelSpec,
    "training": TrainingSpec,
    "augmentation": AugmentationSpec,
}


def setting_key(name: str) -> str:
    """The full key of a searched name: `learning_rate` stands for `training.learning_rate`."""
    return name if "." in name else f"training.{name}"


class StudySpec(_Section):
    """A whole study definition."""

    schema_version: Annotated[int, Field(alias="schema")] = SCHEMA
    name: str
    data: DataSpec
    model: ModelSpec = ModelSpec()
    validation: ValidationSpec = ValidationSpec()
    training: TrainingSpec = TrainingSpec()
    augmentation: AugmentationSpec = AugmentationSpec()
    search: dict[str, Parameter] = {}
    pruner: PrunerSpec = PrunerSpec()
    sampler: SamplerSpec = SamplerSpec()
    budget: BudgetSpec = BudgetSpec()

    @field_validator("schema_version")
    @classmethod
    def _known_schema(cls, value: int) -> int:
        if value != SCHEMA:
            raise ValueError(f"is {value}, this criteria reads {SCHEMA}")
        return value

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not NAME_PATTERN.match(value):
            raise ValueError(
                "may use letters, digits, `.`, `_`, `-`, 1 to 64 of them, "
                "starting with a letter or digit"
            )
        return value

    @model_validator(mode="after")
    def _can_prune(self) -> Self:
        if problem := pruning_problem(self):
            raise ValueError(problem)
        return self

    def hyperparameters(self, params: Mapping[str, Scalar] | None = None) -> Hyperparameters:
        """The settings of a trial that sampled `params` (by search name)."""
        values: dict[str, dict[str, Any]] = {
            section: getattr(self, section).model_dump() for section in SEARCHABLE
        }
        for name, value in (params or {}).items():
            section, _, key = setting_key(name).partition(".")
            values[section][key] = value
        return Hyperparameters(
            model=ModelSpec.model_validate(values["model"]),
            training=TrainingSpec.model_validate(values["training"]),
            augmentation=AugmentationSpec.model_validate(values["augmentation"]),
        )

    def identity(self) -> dict[str, Any]:
        """What every worker of the study must agree on, by dotted key."""
        return {key: value for key, value in flatten(self.to_json()) if key not in LOCAL_KEYS}

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls.model_validate(dict(value))


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested tables by dotted key; a searched parameter stays whole."""
    for key, item in value.items():
        full = f"{prefix}{key}"
        if isinstance(item, Mapping) and not prefix.startswith("search."):
            yield from flatten(item, f"{full}.")
        else:
            yield full, item
