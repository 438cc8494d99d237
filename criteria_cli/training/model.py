"""The encoder that is fine-tuned: a sequence classifier, its tokenizer, and one score per pair."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from criteria_cli.errors import UsageError
from criteria_cli.study.spec import ModelSpec
from criteria_cli.training import tiny
from criteria_cli.training.adapters import add_adapters
from criteria_cli.training.dropout import DropoutSites
from criteria_cli.training.heads import Head, choose_head
from criteria_cli.training.pretrained import Checkpoint, open_checkpoint, open_config
from criteria_cli.training.quiet import silence_transformers

Texts = Callable[[], Iterable[str]] | Sequence[str]

_SEED = 20250
"""Random weights are the same in every process: they are part of the study, not of a trial."""


@dataclass
class ScoringModel:
    """A classifier and how its logits become scores."""

    module: PreTrainedModel
    head: Head

    def scores(self, logits: Tensor) -> Tensor:
        """Log-odds (rows,) of the positive class, in float32, of logits (rows, outputs)."""
        return self.head.scores(logits)

    @cached_property
    def dropout(self) -> DropoutSites:
        """Where this architecture reads its dropout rates."""
        return DropoutSites.of(self.module)


@dataclass
class Encoder(ScoringModel):
    """A `ScoringModel` with its tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    name: str
    """As the study names it."""
    source: str = field(default="builtin")
    """What exactly was loaded: a hub commit, or a digest of local files."""


def load_encoder(spec: ModelSpec, texts: Texts = (), cache: Path | None = None) -> Encoder:
    """The checkpoint `spec` names, with the head it asks for and its dropout rates set.

    Args:
        texts: what `builtin:tiny-deberta-v2` trains its tokenizer on; unused by a checkpoint.
        cache: a private folder for that tokenizer.

    Raises:
        UsageError: the model is missing, damaged, not an encoder, needs code of its own, has too
            few positions for `max_length`, or has no place for a setting of `spec`.
    """
    silence_transformers()
    if spec.name == tiny.NAME:
        head = choose_head(tiny.tiny_config(), False, spec)
        module = _from_config(tiny.tiny_config(), head)
        tokenizer: PreTrainedTokenizerBase = tiny.tiny_tokenizer(
            texts() if callable(texts) else texts, cache
        )
        encoder = Encoder(module, head, tokenizer, spec.name)
    else:
        encoder = _load_checkpoint(spec)
    _finish(encoder, spec)
    return encoder


def encoder_from_config(spec: ModelSpec) -> ScoringModel:
    """The same architecture with random weights, from its configuration alone.

    For measuring memory: no weights are read and no tokenizer is made.

    Raises:
        UsageError: as `load_encoder`.
    """
    silence_transformers()
    config: PretrainedConfig
    if spec.name == tiny.NAME:
        config, has_head = tiny.tiny_config(), False
    else:
        config, has_head = open_config(spec.name)
        _refuse_unsuited(config, spec.name)
    head = choose_head(config, has_head, spec)
    model = ScoringModel(_from_config(config, head), head)
    _finish(model, spec)
    return model


def structure(spec: ModelSpec) -> tuple[object, ...]:
    """What makes another model of it; the other settings are applied in place."""
    lora = (spec.lora_rank, spec.lora_alpha, spec.lora_dropout, spec.lora_targets)
    return (spec.name, spec.head, lora if spec.lora else None)


def apply_model_settings(model: ScoringModel, spec: ModelSpec) -> None:
    """Set the dropout rates of `spec` in place; a rate that is None becomes the checkpoint's own.

    Raises:
        UsageError: naming a rate that this architecture has no place for.
    """
    model.dropout.apply(
        {
            "hidden_dropout": spec.hidden_dropout,
            "attention_dropout": spec.attention_dropout,
            "classifier_dropout": spec.classifier_dropout,
        },
        spec.name,
    )


def _finish(model: ScoringModel, spec: ModelSpec) -> None:
    _check(model, spec)
    apply_model_settings(model, spec)
    if spec.lora:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            add_adapters(model.module, spec)


def _from_config(config: PretrainedConfig, head: Head) -> PreTrainedModel:
    _set_labels(config, head)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        module = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    assert isinstance(module, PreTrainedModel)
    module.eval()
    return module


def _load_checkpoint(spec: ModelSpec) -> Encoder:
    checkpoint = open_checkpoint(spec.name)
    _refuse_unsuited(checkpoint.config, spec.name)
    head = choose_head(checkpoint.config, checkpoint.has_head, spec)
    module = _with_weights(checkpoint, head, spec.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.directory, trust_remote_code=False, local_files_only=True
        )
        tokenizer("a post", "a criterion")  # some values are not looked at before
    except Exception as error:  # whatever a library makes of files that no one checked
        raise UsageError(
            f"the tokenizer of model `{spec.name}` cannot be read", code="model.tokenizer"
        ) from error
    return Encoder(module, head, tokenizer, spec.name, checkpoint.source)


def _with_weights(checkpoint: Checkpoint, head: Head, name: str) -> PreTrainedModel:
    _set_labels(checkpoint.config, head)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        try:
            module, info = AutoModelForSequenceClassification.from_pretrained(
                checkpoint.directory,
                config=checkpoint.config,
                dtype=torch.float32,
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=checkpoint.safetensors,
                weights_only=True,
                ignore_mismatched_sizes=head.new,
                output_loading_info=True,
            )
        except UnpicklingError as error:
            raise UsageError(
                f"the weights of model `{name}` are a pickle that holds more than tensors",
                code="model.own_code",
            ) from error
        except (OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError) as error:
            raise UsageError(
                f"the weights of model `{name}` do not fit its config.json", code="model.damaged"
            ) from error
    assert isinstance(module, PreTrainedModel)
    inside = f"{module.base_model_prefix}."
    lost = [key for key in info["missing_keys"] if key.startswith(inside) and "pooler" not in key]
    if not head.new:
        lost += [key for key in info["missing_keys"] if not key.startswith(inside)]
    if lost:
        raise UsageError(
            f"model `{name}` lacks {len(lost)} weights that its config.json calls for, "
            f"`{min(lost)}` among them",
            code="model.damaged",
        )
    module.eval()
    return module


def _set_labels(config: PretrainedConfig, head: Head) -> None:
    if head.labels is not None:
        config.id2label = dict(enumerate(head.labels))
        config.label2id = {label: index for index, label in enumerate(head.labels)}
        config.problem_type = "single_label_classification" if head.outputs > 1 else None


def _refuse_unsuited(config: PretrainedConfig, name: str) -> None:
    kind = config.model_type
    decoder = getattr(config, "is_decoder", False) or (
        kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    if decoder or getattr(config, "is_encoder_decoder", False):
        raise UsageError(
            f"model `{name}` is a decoder (`{kind}`), criteria needs an encoder",
            code="model.not_an_encoder",
        )
    if kind not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        raise UsageError(
            f"model `{name}` (`{kind}`) has no sequence classification in transformers",
            code="model.not_an_encoder",
        )


def _check(model: ScoringModel, spec: ModelSpec) -> None:
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.module.modules()):  # noqa: SLF001
        raise UsageError(
            f"model `{spec.name}` has batch normalisation, which would make a result depend on "
            "how a batch is split to fit memory",
            code="model.batch_norm",
        )
    positions = positions_of(model.module)
    if positions is not None and spec.max_length > positions:
        raise UsageError(
            f"`model.max_length` {spec.max_length} is above the {positions} positions of "
            f"`{spec.name}`",
            code="model.max_length",
        )


def positions_of(module: PreTrainedModel) -> int | None:
    """The longest input in tokens; None where positions are relative and set no limit."""
    for name, part in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            # RoBERTa counts positions from behind its padding index
            offset = 0 if part.padding_idx is None else part.padding_idx + 1
            return part.num_embeddings - offset
    return None
