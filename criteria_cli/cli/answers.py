"""Standard output as one JSON document: no NaN, unknown is null."""

from __future__ import annotations

import json
import math
import sys
from typing import Any


def print_json(document: Any, *, indent: int | None = 2) -> None:
    """Print a document; one line where `indent` is None."""
    sys.stdout.write(json.dumps(_finite(document), indent=indent, allow_nan=False) + "\n")
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
