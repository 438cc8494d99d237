"""A checkpoint on disk: found, checked and only then opened.

No code of a checkpoint is ever run: a configuration that names its own code is refused, and
weights are read from safetensors. A hub checkpoint that was only ever published as
`pytorch_model.bin` (DeBERTa-v3 is one) is read with torch's restricted unpickler.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from huggingface_hub import (
    constants,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PretrainedConfig

from criteria_cli.errors import UsageError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?\Z")
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLED = "pytorch_model.bin"
_ADAPTER = "adapter_config.json"
_LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
_MOST = {**dict.fromkeys(_LAYERS, 1000), "num_labels": 100_000}
"""The deepest encoders have some 50 layers. Every layer is built, and every label gets a name,
before a weight is looked at."""
_NUMBERED = re.compile(r".*?\.\d+(?=\.)")


@dataclass(frozen=True)
class Checkpoint:
    """A directory that `from_pretrained` may open."""

    directory: Path
    config: PretrainedConfig
    safetensors: bool
    source: str
    """What exactly it is: a hub commit, or a digest of the local files."""

    @property
    def has_head(self) -> bool:
        """Whether it was saved as a sequence classifier."""
        architectures = self.config.architectures or []
        return any(name.endswith("ForSequenceClassification") for name in architectures)


def open_checkpoint(name: str) -> Checkpoint:
    """The checkpoint `name`, a local directory or a hub name, ready to be loaded.

    Raises:
        UsageError: it is not there, damaged, not an encoder, or needs code of its own.
    """
    local = _local_directory(name)
    directory = local or _download(name)
    config = _read_config(directory, name)
    if local:
        _check_digests(directory, name)
    weights = _weight_files(directory, name)
    if not weights and local:
        raise UsageError(
            f"model `{name}` has no safetensors weights",
            code="model.not_safetensors",
            hint="convert it first: open it with transformers and call `save_pretrained`",
        )
    if weights:
        _refuse_more_layers(config, weights, name)
    else:
        _download(name, [_PICKLED])
    source = _digest([directory / _CONFIG, *weights]) if local else directory.name
    return Checkpoint(directory, config, bool(weights), source)


def open_config(name: str) -> tuple[PretrainedConfig, bool]:
    """The configuration of `name` and whether the checkpoint has a classification head.

    Reads, and if need be downloads, `config.json` alone.

    Raises:
        UsageError: as `open_checkpoint`.
    """
    directory = _local_directory(name) or _download(name, [_CONFIG])
    config = _read_config(directory, name)
    return config, Checkpoint(directory, config, True, "").has_head


def _local_directory(name: str) -> Path | None:
    path = Path(name).expanduser()
    if (path / _CONFIG).is_file():
        return path
    if _HUB_NAME.match(name):
        return None
    if not path.is_dir():
        raise UsageError(f"model directory `{name}` does not exist", code="model.missing")
    raise UsageError(f"`{name}` is not a model: no {_CONFIG}", code="model.missing")


def _download(name: str, files: list[str] | None = None) -> Path:
    """The snapshot of a hub checkpoint in the hub's own cache, fetched where it is missing."""
    try:
        if files and len(files) == 1:
            if try_to_load_from_cache(name, files[0]) is None:
                # asks once where there is no network; the other would try again for 23 s
                snapshot_download(name, allow_patterns=files, ignore_patterns=["*/*"])
            return Path(hf_hub_download(name, files[0])).parent
        return Path(snapshot_download(name, allow_patterns=_FILES, ignore_patterns=["*/*"]))
    except RepositoryNotFoundError as error:  # a gated one too
        raise UsageError(
            f"model `{name}` was not found or needs a login",
            code="model.missing",
            hint="check the name, or run `hf auth login`",
        ) from error
    except LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise UsageError(
            f"model `{name}` is not in the cache and {why}",
            code="model.missing",
            hint="download it where there is a network, or name a local directory",
        ) from error
    except (HfHubHTTPError, OSError, ValueError, ImportError) as error:  # of a proxy, say
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"model `{name}` cannot be downloaded: {said}", code="model.missing"
        ) from error


def _read_config(directory: Path, name: str) -> PretrainedConfig:
    try:
        raw = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{_CONFIG} of model `{name}` cannot be read", code="model.config"
        ) from error
    if not isinstance(raw, dict) or "model_type" not in raw:
        raise UsageError(f"{_CONFIG} of model `{name}` names no model_type", code="model.config")
    # an attention of the hub's is code too
    attention = (raw.get(key) for key in ("attn_implementation", "_attn_implementation"))
    if raw.get("auto_map") or any("/" in str(value) for value in attention):
        raise UsageError(
            f"model `{name}` needs its own code to load, criteria does not run code of models",
            code="model.own_code",
        )
    for key, most in _MOST.items():
        if isinstance(raw.get(key), int) and raw[key] > most:
            raise UsageError(
                f"{_CONFIG} of model `{name}`: `{key}` is {raw[key]}, the most is {most}",
                code="model.config",
            )
    if raw.get("quantization_config"):
        raise UsageError(
            f"model `{name}` is quantised, criteria needs its weights as they were trained",
            code="model.config",
        )
    if (directory / _ADAPTER).exists():  # transformers would lay it over the weights unasked
        raise UsageError(
            f"model `{name}` has an `{_ADAPTER}`: criteria takes whole models only",
            code="model.adapter",
            hint="merge it with peft's `merge_and_unload` and save that, or remove the file",
        )
    try:
        config = AutoConfig.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # whatever a library makes of values that no one checked
        raise UsageError(
            f"{_CONFIG} of model `{name}` is not one that transformers knows "
            f"(model_type `{raw['model_type']}`)",
            code="model.config",
        ) from error
    assert isinstance(config, PretrainedConfig)
    return config


def _weight_files(directory: Path, name: str) -> list[Path]:
    """The safetensors files, each whole; none if there are only other formats."""
    if (directory / _WEIGHTS).exists():
        files = [directory / _WEIGHTS]
    elif (directory / _INDEX).exists():
        files = _shards(directory, name)
    else:
        return []
    for path in files:
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise UsageError(
                f"`{name}/{path.name}` is damaged (incomplete)", code="model.damaged"
            ) from error
    return files


def _refuse_more_layers(config: PretrainedConfig, weights: list[Path], name: str) -> None:
    """A layer without weights would be made of random ones, and take memory, before it is missed.

    Layers are counted by the numbers in the names of tensors: `encoder.layer.11.output.dense.bias`.
    """
    layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(layers, int) or hasattr(config, "num_hidden_groups"):  # ALBERT's share theirs
        return
    found: set[str] = set()
    for path in weights:
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118 - the file itself cannot be iterated over
                found.update(key[: match.end()] for match in _NUMBERED.finditer(key))
    if layers > len(found):
        raise UsageError(
            f"{_CONFIG} of model `{name}` asks for {layers} layers, its weights have {len(found)}",
            code="model.damaged",
        )


def _shards(directory: Path, name: str) -> list[Path]:
    try:
        index = json.loads((directory / _INDEX).read_text(encoding="utf-8"))
        names = sorted({str(file) for file in index["weight_map"].values()})
    except (ValueError, KeyError, AttributeError) as error:
        raise UsageError(f"`{name}/{_INDEX}` is damaged", code="model.damaged") from error
    if any(Path(file).name != file for file in names):
        raise UsageError(
            f"`{name}/{_INDEX}` names a file outside its directory", code="model.damaged"
        )
    return [directory / file for file in names]


def _check_digests(directory: Path, name: str) -> None:
    """A directory that `criteria train` wrote says what its files must be."""
    record = directory / "criteria.json"
    if not record.is_file():
        return
    try:
        stated = dict(json.loads(record.read_text(encoding="utf-8")).get("files", {}))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"`{name}/{record.name}` is damaged", code="model.damaged") from error
    for file, digest in stated.items():
        path = directory / Path(file).name
        if not path.is_file():
            raise UsageError(f"`{name}/{path.name}` is missing", code="model.damaged")
        if sha256_of(path) != digest:
            raise UsageError(
                f"`{name}/{path.name}` does not match `{record.name}`, it was changed or damaged",
                code="model.damaged",
            )


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _digest(files: list[Path]) -> str:
    return sha256("".join(sha256_of(path) for path in files).encode()).hexdigest()
