"""Real tiny checkpoints of three architectures, written to disk and loaded as a user's are."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, GPT2Config

from criteria_cli.errors import UsageError
from criteria_cli.study.spec import ModelSpec
from criteria_cli.training import tiny
from criteria_cli.training.model import (
    Encoder,
    apply_model_settings,
    encoder_from_config,
    load_encoder,
)

from .architectures import MAIN, OTHERS, SMALL, TEXTS, tiny_digest, write_checkpoint


def logits_of(encoder: Encoder, posts: list[str], criterion: str) -> torch.Tensor:
    batch = encoder.tokenizer(posts, [criterion] * len(posts), padding=True, return_tensors="pt")
    if encoder.module.config.model_type in ("distilbert", "modernbert"):
        batch.pop("token_type_ids", None)
    if encoder.module.config.model_type == "xlm-roberta":
        batch["token_type_ids"] = torch.zeros_like(batch["token_type_ids"])
    with torch.no_grad():
        return encoder.module(**batch).logits


def spec(path: Path | str, **keys: Any) -> ModelSpec:
    return ModelSpec(name=str(path), **({"max_length": 128} | keys))


# ---- the builtin model


def test_the_builtin_model_is_the_same_in_every_process() -> None:
    """Whatever the order of the texts: another process draws other hashes."""
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from architectures import TEXTS, tiny_digest\n"
        "print(tiny_digest(TEXTS[::-1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == tiny_digest(TEXTS)


def test_the_builtin_tokenizer_is_kept_privately_and_read_back(tmp_path: Path) -> None:
    first = load_encoder(spec(tiny.NAME), TEXTS, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    again = load_encoder(spec(tiny.NAME), lambda: iter(TEXTS), tmp_path / "cache")
    pair = ("sleep badly", "tired")
    assert first.tokenizer(*pair)["input_ids"] == again.tokenizer(*pair)["input_ids"]
    assert first.tokenizer.convert_ids_to_tokens(first.tokenizer(*pair)["input_ids"])[0] == "[CLS]"


def test_the_builtin_shape_does_not_hang_on_the_texts() -> None:
    few, many = load_encoder(spec(tiny.NAME), ["one"]), load_encoder(spec(tiny.NAME), TEXTS)
    probe = encoder_from_config(spec(tiny.NAME))
    shapes = [
        [tuple(part.shape) for part in model.module.parameters()] for model in (few, many, probe)
    ]
    assert shapes[0] == shapes[1] == shapes[2]


# ---- checkpoints


@pytest.mark.parametrize("architecture", MAIN)
def test_a_checkpoint_keeps_its_two_logit_head(architecture: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN[architecture], num_labels=2)
    encoder = load_encoder(spec(path))
    assert (encoder.head.kind, encoder.head.new, encoder.head.positive) == ("two_logits", False, 1)
    logits = logits_of(encoder, TEXTS, "sleep")
    reference = AutoModelForSequenceClassification.from_pretrained(path)
    torch.testing.assert_close(
        reference.classifier.state_dict(), encoder.module.classifier.state_dict()
    )  # type: ignore[arg-type]
    torch.testing.assert_close(encoder.scores(logits), logits[:, 1] - logits[:, 0])


def test_a_bare_encoder_gets_two_new_logits_the_same_each_time(tmp_path: Path) -> None:
    config = BertConfig(**SMALL)
    BertModel(config).save_pretrained(tmp_path)
    tiny.tiny_tokenizer(TEXTS).save_pretrained(tmp_path)
    torch.manual_seed(3)
    one = load_encoder(spec(tmp_path))
    torch.manual_seed(4)
    two = load_encoder(spec(tmp_path))
    assert (one.head.kind, one.head.new) == ("two_logits", True)
    assert one.module.config.id2label == {0: "absent", 1: "present"}
    for left, right in zip(one.module.parameters(), two.module.parameters(), strict=True):
        assert torch.equal(left, right)


def test_loading_leaves_the_callers_random_state_alone(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN["bert"])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_encoder(spec(path, head="one_logit"))
    assert torch.equal(torch.rand(3), expected)


def test_a_reranker_keeps_its_one_logit(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN["xlm-roberta"], num_labels=1)
    encoder = load_encoder(spec(path))
    assert (encoder.head.kind, encoder.head.new) == ("one_logit", False)
    logits = logits_of(encoder, TEXTS, "sleep")
    assert torch.equal(encoder.scores(logits), logits[:, 0])


@pytest.mark.parametrize("entailment", [0, 1, 2])
def test_before_training_pairs_rank_as_the_nli_model_ranks_them_by_entailment(
    entailment: int, tmp_path: Path
) -> None:
    names = ["neutral", "contradiction"]
    names.insert(entailment, "ENTAILMENT")
    path = write_checkpoint(tmp_path, MAIN["bert"], id2label=dict(enumerate(names)))
    encoder = load_encoder(spec(path))
    assert encoder.head.kind == "entailment"
    reference = AutoModelForSequenceClassification.from_pretrained(path).eval()
    posts = [f"{text} {word}" for text in TEXTS for word in ("sleep", "eat", "day", "badly")]
    batch = encoder.tokenizer(posts, ["no sleep"] * 12, padding=True, return_tensors="pt")
    with torch.no_grad():
        probability = reference(**batch).logits.softmax(dim=1)[:, entailment]
    scores = encoder.scores(logits_of(encoder, posts, "no sleep"))
    torch.testing.assert_close(scores.sigmoid(), probability)
    assert scores.argsort().tolist() == probability.argsort().tolist()


def test_two_classes_with_entailment_first_keep_their_direction(tmp_path: Path) -> None:
    path = write_checkpoint(
        tmp_path, MAIN["deberta-v2"], id2label={0: "entailment", 1: "not_entailment"}
    )
    encoder = load_encoder(spec(path))
    logits = torch.tensor([[2.0, -1.0]])
    assert encoder.scores(logits).item() == 3.0


def test_a_half_precision_checkpoint_is_trained_in_float32(tmp_path: Path) -> None:
    module = AutoModelForSequenceClassification.from_config(MAIN["bert"]).half()
    module.save_pretrained(tmp_path)
    tiny.tiny_tokenizer(TEXTS).save_pretrained(tmp_path)
    assert {part.dtype for part in load_encoder(spec(tmp_path)).module.parameters()} == {
        torch.float32
    }


# ---- dropout


@pytest.mark.parametrize("architecture", [*MAIN, *OTHERS])
@pytest.mark.parametrize("setting", ["hidden_dropout", "attention_dropout", "classifier_dropout"])
def test_a_dropout_rate_reaches_what_the_architecture_reads(
    architecture: str, setting: str, tmp_path: Path
) -> None:
    """In training mode two passes differ exactly when the one rate that is not 0 acts."""
    path = write_checkpoint(tmp_path, (MAIN | OTHERS)[architecture])
    none = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.0}
    encoder = load_encoder(spec(path, **none))
    encoder.module.train()
    first, second = (logits_of(encoder, TEXTS, "sleep") for _ in range(2))
    torch.testing.assert_close(first, second)
    apply_model_settings(encoder, spec(path, **(none | {setting: 0.5})))
    first, second = (logits_of(encoder, TEXTS, "sleep") for _ in range(2))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("architecture", [*MAIN, *OTHERS])
def test_the_rates_in_place_are_those_a_fresh_model_would_have(
    architecture: str, tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path, (MAIN | OTHERS)[architecture])
    encoder = load_encoder(spec(path))
    own = rates(encoder.module)
    before = encoder.module.config.to_dict()
    apply_model_settings(encoder, spec(path, hidden_dropout=0.3, attention_dropout=0.2))
    fresh = AutoModelForSequenceClassification.from_config(encoder.module.config)
    assert rates(encoder.module) == rates(fresh)
    assert rates(encoder.module) != own
    apply_model_settings(encoder, spec(path))
    assert rates(encoder.module) == own
    assert encoder.module.config.to_dict() == before


def rates(module: torch.nn.Module) -> dict[str, float]:
    return {
        name: part.p
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Dropout) and part.p
    }


def test_the_classifier_rate_of_deberta_is_its_cls_and_pooler_dropout(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN["deberta-v2"])
    module = load_encoder(spec(path, classifier_dropout=0.4)).module
    assert (module.dropout.p, module.pooler.dropout.p) == (0.4, 0.4)
    assert (module.config.cls_dropout, module.config.pooler_dropout) == (0.4, 0.4)


# ---- what is refused


def refused(name: Path | str, **keys: Any) -> str:
    with pytest.raises(UsageError) as refusal:
        load_encoder(spec(name, **keys))
    assert "\n" not in refusal.value.message
    return refusal.value.message


def test_a_directory_that_is_not_there() -> None:
    assert refused("./no_such_dir") == "model directory `./no_such_dir` does not exist"


def test_a_directory_without_a_configuration(tmp_path: Path) -> None:
    assert "is not a model: no config.json" in refused(tmp_path)


def test_a_hub_name_that_is_not_in_the_cache(tmp_path: Path) -> None:
    script = (
        "from criteria_cli.study.spec import ModelSpec\n"
        "from criteria_cli.training.model import load_encoder\n"
        "from criteria_cli.errors import UsageError\n"
        "try: load_encoder(ModelSpec(name='microsoft/deberta-v3-base'))\n"
        "except UsageError as error: print(error.message)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "model `microsoft/deberta-v3-base` is not in the cache and HF_HUB_OFFLINE is set\n"
    )


def test_code_in_a_checkpoint_is_neither_run_nor_asked_about(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN["bert"])
    (path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSequenceClassification": "evil.Evil"}
    (path / "config.json").write_text(json.dumps(config))
    assert "needs its own code" in refused(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attn_implementation": "evil/kernel"}, "needs its own code"),
        ({"_attn_implementation": "evil/kernel"}, "needs its own code"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "is quantised"),
        ({"hidden_size": "x"}, "is not one that transformers knows"),
        ({"dtype": "evil"}, "is not one that transformers knows"),
        ({"hidden_act": "evil"}, "do not fit its config.json"),
        # these would be built until memory is full
        ({"num_hidden_layers": 10**9}, "`num_hidden_layers` is 1000000000, the most is 1000"),
        ({"num_labels": 10**9}, "`num_labels` is 1000000000, the most is 100000"),
        ({"num_hidden_layers": 1000}, "asks for 1000 layers, its weights have 2"),
    ],
)
def test_a_hostile_configuration_is_refused(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path, MAIN["bert"])
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | values))
    assert message in refused(path)


def test_a_local_checkpoint_without_safetensors(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN["bert"])
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    assert "has no safetensors weights" in refused(path)


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_damaged_weights(keep: float, tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path, MAIN["bert"]) / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * keep)])
    assert "model.safetensors` is damaged (incomplete)" in refused(tmp_path)


def test_weights_that_do_not_fit_the_configuration(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN["bert"])
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert "asks for 3 layers, its weights have 2" in refused(path)
    (path / "config.json").write_text(json.dumps(config))
    tensors = load_file(path / "model.safetensors")
    del tensors["bert.encoder.layer.1.output.dense.bias"]
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    assert "lacks 1 weights" in refused(path)
    (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    assert "do not fit" in refused(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": "from-the-future"}'])
def test_a_configuration_that_cannot_be_read(text: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN["bert"])
    (path / "config.json").write_text(text)
    assert "config.json of model" in refused(path)


def test_a_tokenizer_that_loads_and_cannot_be_used(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN["bert"])
    kept = path / "tokenizer_config.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"model_max_length": "x"}))
    assert "the tokenizer of model" in refused(path)


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta"])
def test_more_tokens_than_positions(architecture: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN[architecture])
    message = refused(path, max_length=4096)
    assert "`model.max_length` 4096 is above the 512 positions" in message
    load_encoder(spec(path, max_length=512))


def test_a_decoder(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=2048, n_embd=16, n_layer=1, n_head=2, num_labels=2)
    write_checkpoint(tmp_path, config, pad_token_id=0)
    assert "is a decoder" in refused(tmp_path)


def test_five_labels_unless_a_new_head_is_asked_for(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN["bert"], num_labels=5)
    assert "has 5 labels, criteria needs 1 or 2" in refused(path)
    assert load_encoder(spec(path, head="two_logits")).head.new


def test_an_entailment_head_that_is_not_there(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN["bert"])
    assert "has no class named `entailment`" in refused(path, head="entailment")


def test_a_file_that_differs_from_its_record(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN["bert"])
    (path / "criteria.json").write_text(json.dumps({"files": {"model.safetensors": "0" * 64}}))
    assert "does not match `criteria.json`" in refused(path)


def test_the_probes_model_has_the_shape_of_the_real_one(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN["deberta-v2"], num_labels=1)
    real = load_encoder(spec(path, hidden_dropout=0.3))
    (path / "model.safetensors").unlink()
    probe = encoder_from_config(spec(path, hidden_dropout=0.3))
    assert probe.head == real.head
    assert rates(probe.module) == rates(real.module)
    assert [part.shape for part in probe.module.parameters()] == [
        part.shape for part in real.module.parameters()
    ]


def test_a_rate_that_has_no_place_is_refused_by_name(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN["bert"])
    encoder = load_encoder(spec(path))
    object.__setattr__(encoder.dropout, "sites", {})
    with pytest.raises(UsageError, match=r"`model.attention_dropout` has no place in model"):
        apply_model_settings(encoder, spec(path, attention_dropout=0.1))


def test_the_tokenizer_file_is_one_that_the_tokenizers_library_reads() -> None:
    text = tiny.tiny_tokenizer(TEXTS).backend_tokenizer.to_str()
    assert Tokenizer.from_str(text).get_vocab_size() <= tiny.VOCABULARY
