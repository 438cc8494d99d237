"""Whether a definition's model and device could be used, without loading or fetching anything."""

from __future__ import annotations

from pathlib import Path

from criteria_cli.study.spec import ModelSpec
from criteria_cli.training.visible import missing_device, require_gpu_support, visible_devices


def rehearse_device(device: str) -> str:
    """Check `auto`, `cpu` or `cuda:N`, and say what is there.

    Raises:
        MachineError: no such device.
    """
    if device == "cpu" or device.startswith("simulated:"):
        return device
    if device == "auto":
        cards = visible_devices()
        return ", ".join(card.name for card in cards) or "no GPU visible: the processor"
    index = int(device.partition(":")[2] or 0)
    require_gpu_support()
    cards = visible_devices()
    if index >= len(cards):
        raise missing_device(index, len(cards))
    return cards[index].name


def rehearse_model(model: ModelSpec) -> str:
    """Check a local checkpoint; a hub name is only looked for in the cache, never fetched.

    Raises:
        UsageError: a local checkpoint that cannot be used.
    """
    if model.name.startswith("builtin:"):
        return "made on the spot"
    if Path(model.name).expanduser().exists() or model.name.startswith((".", "/", "~")):
        from criteria_cli.training.pretrained import open_checkpoint

        open_checkpoint(model.name)
        return "a local folder, whole"
    from huggingface_hub import try_to_load_from_cache

    cached = isinstance(try_to_load_from_cache(model.name, "config.json"), str)
    return "in the hub cache" if cached else "fetched from the hub by the first trainer"
