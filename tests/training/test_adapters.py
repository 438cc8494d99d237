from pathlib import Path

import pytest
import torch

from criteria_cli.errors import UsageError
from criteria_cli.study.spec import ModelSpec
from criteria_cli.training.adapters import has_adapters, merged
from criteria_cli.training.model import Encoder, encoder_from_config, load_encoder

from .architectures import MAIN, OTHERS, TEXTS, write_checkpoint


def load(path: Path, **keys: object) -> Encoder:
    return load_encoder(ModelSpec(name=str(path), max_length=128, lora=True, **keys))  # type: ignore[arg-type]


def logits(module: torch.nn.Module, encoder: Encoder) -> torch.Tensor:
    batch = encoder.tokenizer(TEXTS, TEXTS[::-1], padding=True, return_tensors="pt")
    batch.pop("token_type_ids")
    with torch.no_grad():
        return module.eval()(**batch).logits


@pytest.mark.parametrize("architecture", [*MAIN, *OTHERS])
def test_only_adapters_and_the_head_are_trained(architecture: str, tmp_path: Path) -> None:
    encoder = load(write_checkpoint(tmp_path, (MAIN | OTHERS)[architecture]))
    inside = f"{encoder.module.base_model_prefix}."
    trained = {name for name, p in encoder.module.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in trained if name.startswith(inside))
    assert any(".lora_A" in name for name in trained)
    assert any("classifier" in name for name in trained)


@pytest.mark.parametrize("architecture", [*MAIN, *OTHERS])
def test_a_fresh_adapter_changes_nothing_and_a_merged_one_says_the_same(
    architecture: str, tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path, (MAIN | OTHERS)[architecture])
    plain = load_encoder(ModelSpec(name=str(path), max_length=128))
    encoder = load(path, lora_targets="all")
    torch.testing.assert_close(logits(encoder.module, encoder), logits(plain.module, plain))
    with torch.no_grad():
        for name, parameter in encoder.module.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.3)
    adapted = logits(encoder.module, encoder)
    assert not torch.allclose(adapted, logits(plain.module, plain))
    whole = merged(encoder.module)
    assert has_adapters(encoder.module)
    assert not has_adapters(whole)
    torch.testing.assert_close(logits(whole, encoder), adapted)
    assert [name for name, _ in whole.named_parameters()] == [
        name for name, _ in plain.module.named_parameters()
    ]


def test_rank_and_targets_decide_how_much_is_trained(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN["bert"])

    def trained(**keys: object) -> int:
        module = load(path, **keys).module
        return sum(p.numel() for name, p in module.named_parameters() if ".lora_" in name)

    assert trained(lora_rank=4) == 2 * trained(lora_rank=2)
    assert trained(lora_targets="all") > trained(lora_targets="attention")


def test_the_probes_model_has_the_same_adapters(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MAIN["deberta-v2"])
    spec = ModelSpec(name=str(path), max_length=128, lora=True)
    real, probe = load_encoder(spec), encoder_from_config(spec)
    assert [(n, p.shape, p.requires_grad) for n, p in real.module.named_parameters()] == [
        (n, p.shape, p.requires_grad) for n, p in probe.module.named_parameters()
    ]


def test_a_model_without_such_matrices_is_refused(tmp_path: Path) -> None:
    encoder = load_encoder(ModelSpec(name=str(write_checkpoint(tmp_path, MAIN["bert"]))))
    encoder.module.base_model_prefix = "nothing"
    from criteria_cli.training.adapters import add_adapters

    with pytest.raises(UsageError, match=r"`model.lora_targets` = `attention` names no matrix"):
        add_adapters(encoder.module, ModelSpec(name="m", lora=True))
