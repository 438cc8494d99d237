"""Tiny real checkpoints of several architectures, written as a hub would hold them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    XLMRobertaConfig,
)

from criteria_cli.study.spec import ModelSpec
from criteria_cli.training import tiny
from criteria_cli.training.model import load_encoder

TEXTS = ["I sleep badly and eat little.", "No pleasure in anything.", "Tired all day, every day."]
SMALL: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "pad_token_id": 0,
}
MAIN: dict[str, PretrainedConfig] = {
    "bert": BertConfig(**SMALL),
    "deberta-v2": DebertaV2Config(
        **SMALL,
        relative_attention=True,
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
    ),
    "xlm-roberta": XLMRobertaConfig(**SMALL, max_position_embeddings=513, type_vocab_size=1),
}
OTHERS: dict[str, PretrainedConfig] = {
    "modernbert": ModernBertConfig(
        **SMALL, bos_token_id=1, cls_token_id=1, sep_token_id=2, eos_token_id=2
    ),
    "mpnet": MPNetConfig(**SMALL),
    "distilbert": DistilBertConfig(vocab_size=2048, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
}


def write_checkpoint(
    directory: Path, config: PretrainedConfig, texts: Sequence[str] = TEXTS, **changes: Any
) -> Path:
    """A classifier with random weights and a tokenizer of some texts."""
    config = type(config).from_dict(config.to_dict() | changes)
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(directory)
    tiny.tiny_tokenizer(texts).save_pretrained(directory)
    return directory


def tiny_digest(texts: list[str]) -> str:
    """Of tokenizer and weights of the builtin model for these texts."""
    encoder = load_encoder(ModelSpec(name=tiny.NAME), texts)
    value = hashlib.sha256(encoder.tokenizer.backend_tokenizer.to_str().encode())
    for part in encoder.module.parameters():
        value.update(part.detach().numpy().tobytes())
    return value.hexdigest()
