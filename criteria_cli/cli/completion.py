"""What the shell offers while a command is typed. Never fails, never waits long."""

from __future__ import annotations

from pathlib import Path

from criteria_cli.errors import CriteriaError


def studies(incomplete: str) -> list[str]:
    """Bundled definitions and TOML files."""
    from criteria_cli.bundled import bundled_names

    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    files = sorted(str(path) for path in folder.glob("*.toml")) if folder.is_dir() else []
    return [name for name in (*bundled_names(), *files) if name.startswith(incomplete)]


def names(incomplete: str) -> list[str]:
    """Studies of the default store."""
    from criteria_cli import wiring
    from criteria_cli.cli.store import store

    try:
        known = wiring.study_names(store(None).address)
    except CriteriaError:
        return []
    return [name for name in known if name.startswith(incomplete)]


def settings(incomplete: str) -> list[str]:
    """Keys of a definition."""
    from criteria_cli.study.explain import known_keys

    return [f"{key}=" for key in known_keys() if key.startswith(incomplete)]
