"""Where the migrations and the shipped study definitions live.

A wheel carries both folders inside the package; a checkout has them beside it.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def bundled(folder: str) -> Path:
    """The shipped folder ``alembic`` or ``studies``.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    for place in (_PACKAGE / "_bundled" / folder, _PACKAGE.parent / folder):
        if place.is_dir():
            return place
    raise FileNotFoundError(f"{folder} is missing from this installation")


def bundled_names() -> list[str]:
    """The names of the shipped definitions."""
    return sorted(path.stem for path in bundled("studies").glob("*.toml"))
