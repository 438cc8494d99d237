"""`criteria doctor`: what a report of a problem needs, on one screen. Nothing is changed."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from criteria_cli import __version__
from criteria_cli.cli.answers import print_json
from criteria_cli.cli.arguments import Json, Storage
from criteria_cli.cli.environment import runs_directory
from criteria_cli.cli.layout import Column, Line, Span, line, show, table, width_of
from criteria_cli.cli.store import store
from criteria_cli.cli.words import cleaned, size
from criteria_cli.errors import CriteriaError

NAME = "doctor"
EXAMPLES = "\b\nExamples:\n  criteria doctor\n  criteria doctor --json"

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "optuna",
    "sqlalchemy",
    "alembic",
    "psycopg2-binary",
    "numpy",
    "safetensors",
)
EXTRAS = (
    "pyarrow", "nltk", "peft", "disentangled-flash", "matplotlib", "tensorboardX", "mlflow-skinny",
    "wandb",
)  # fmt: skip


def command(storage: Storage = None, as_json: Json = False) -> int:
    """Show versions, devices, store, disk and caches: what a bug report needs."""
    facts = {
        "schema": "criteria.doctor/1",
        "criteria": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "packages": {name: _version(name) for name in PACKAGES},
        "extras": {name: _version(name) for name in EXTRAS},
        "devices": _devices(),
        "memory": _memory(),
        "store": _store(storage),
        "runs": _folder(runs_directory()),
        "hub_cache": _folder(_hub_cache()),
        "hub_offline": os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"),
    }
    if as_json:
        print_json(facts)
    else:
        show(_screen(facts))
    return 0


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    from criteria_cli import wiring

    try:
        return {"visible": [device.to_json() for device in wiring.visible_devices()], "error": None}
    except CriteriaError as error:
        return {"visible": [], "error": error.message}


def _memory() -> dict[str, Any]:
    from criteria_cli import wiring

    host = wiring.host_memory()
    return {
        "total_bytes": host.total_bytes,
        "free_bytes": host.free_bytes,
        "limit": host.source,
    }


def _store(flag: str | None) -> dict[str, Any]:
    from criteria_cli import wiring

    place = store(flag)
    try:
        studies = wiring.all_studies(place.address)
    except CriteriaError as error:
        return {"url": place.shown, "studies": None, "error": error.message}
    return {"url": place.shown, "studies": len(studies), "error": None}


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


def _folder(path: Path) -> dict[str, Any]:
    from criteria_cli.study.explain import shown_path

    nearest = next(item for item in (path.absolute(), *path.absolute().parents) if item.exists())
    usage = shutil.disk_usage(nearest)
    return {
        "path": shown_path(path),
        "exists": path.is_dir(),
        "writable": os.access(nearest, os.W_OK),
        "free_bytes": usage.free,
    }


def _screen(facts: dict[str, Any]) -> list[Line]:
    rows: list[tuple[str, str | list[str]]] = [
        ("criteria", f"{facts['criteria']}, Python {facts['python']}, {facts['system']}"),
        ("packages", _versions(facts["packages"])),
        ("extras", _versions(facts["extras"])),
        ("devices", _device_words(facts["devices"])),
        ("memory", _memory_words(facts)),
        ("store", _store_words(facts["store"])),
        ("runs", _folder_words(facts["runs"])),
        ("hub cache", _folder_words(facts["hub_cache"])),
        ("hub", "offline (HF_HUB_OFFLINE)" if facts["hub_offline"] else "online allowed"),
    ]
    width = width_of(sys.stdout)
    lines: list[Line] = []
    for name, text in rows:
        lines += _wrapped(name, text, width)
    devices = facts["devices"]["visible"]
    if devices:
        lines += [line(), *_device_table(devices, width)]
    return lines


def _wrapped(name: str, text: str | list[str], width: int | None) -> list[Line]:
    from criteria_cli.cli.layout import listed, wrapped

    indent = " " * 11
    if isinstance(text, str):
        head, *rest = wrapped(text, width, indent)
    else:
        head, *rest = listed(text, width, indent=indent)
    return [line(Span(f"{name:<11}", "dim"), head.text[11:]), *rest]


def _versions(found: dict[str, str | None]) -> list[str]:
    return [f"{name} {number or 'none'}" for name, number in found.items()]


def _device_words(devices: dict[str, Any]) -> str:
    if devices["error"]:
        return cleaned(str(devices["error"]))
    number = len(devices["visible"])
    return f"{number} visible" if number else "no GPU visible, the processor is used"


def _device_table(devices: list[dict[str, Any]], width: int | None) -> list[Line]:
    columns = [
        Column("DEVICE"),
        Column("NAME", shrink=True),
        Column("TOTAL", right=True),
        Column("FREE", right=True),
        Column("COMPUTE", right=True),
        Column("BF16"),
    ]
    rows = [
        [
            device["device"],
            cleaned(device["name"]),
            size(device["total_bytes"]),
            size(device["free_bytes"]),
            device["capability"],
            "yes" if device["supports_bf16"] else "no",
        ]
        for device in devices
    ]
    return table(columns, rows, width)


def _memory_words(facts: dict[str, Any]) -> str:
    memory = facts["memory"]
    return (
        f"{size(memory['free_bytes'])} of {size(memory['total_bytes'])} free "
        f"({memory['limit']}), {facts['cores']} cores"
    )


def _store_words(found: dict[str, Any]) -> str:
    if found["error"]:
        return f"{found['url']}: {cleaned(found['error'])}"
    return f"{found['url']}: {found['studies']} studies"


def _folder_words(found: dict[str, Any]) -> str:
    there = "" if found["exists"] else ", does not exist yet"
    writable = "" if found["writable"] else ", not writable"
    return f"{found['path']}: {size(found['free_bytes'])} free{there}{writable}"
