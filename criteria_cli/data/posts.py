"""Posts as they are read, row by row: each id once, one text, one group."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from criteria_cli.data.criteria import Criterion
from criteria_cli.data.tables import NAME, wrong_row
from criteria_cli.errors import UsageError

_LABELS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
_NUMBER = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", re.IGNORECASE)


class PostList:
    """Collects posts and refuses what contradicts itself.

    Attributes:
        path: the file they come from.
        ids, texts, groups: one entry per post, in the order of the file.
        position: a post's place in these by its id.
        repeated: how many rows said again what another had said.
    """

    def __init__(self, path: Path, column: str) -> None:
        self.path = path
        self.column = column
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.groups: list[str] = []
        self.position: dict[str, int] = {}
        self.repeated = 0
        self._rows: list[int] = []
        self._blank: list[int] = []

    def add(self, row: int, post_id: str, text: str, group: str = "") -> int:
        """Take one row and answer the post's position. Without a group, a post is its own.

        Raises:
            UsageError: the id is empty, or has had another text or group.
        """
        post_id = post_id.strip()
        group = group.strip() or post_id
        if not post_id:
            raise wrong_row(self.path, row, "the post id is empty", code="data.post_id")
        if not text.strip():
            self._blank.append(row)
        known = self.position.get(post_id)
        if known is None:
            self.position[post_id] = len(self.ids)
            self.ids.append(post_id)
            self.texts.append(text)
            self.groups.append(group)
            self._rows.append(row)
            return len(self.ids) - 1
        self.repeated += 1
        for what, ours, theirs in (
            ("text", self.texts[known], text),
            ("group", self.groups[known], group),
        ):
            if ours != theirs:
                raise UsageError(
                    f"`{self.path.name}`: one post id has two {what}s, "
                    f"rows {self._rows[known]} and {row}",
                    code=f"data.two_{what}s",
                )
        return known

    def close(self) -> None:
        """Check what only the whole file shows.

        Raises:
            UsageError: posts are blank.
        """
        if self._blank:
            number = len(self._blank)
            rows = "row" if number == 1 else "rows"
            raise UsageError(
                f"`{self.path.name}`: column `{self.column}` is empty in {number} {rows}, "
                f"first row {self._blank[0]}",
                code="data.blank",
            )


def read_label(path: Path, row: int, column: str, cell: str) -> bool:
    """Whether a label cell says 1; `1`, `1.0` and `True` do, `0`, `0.0` and `False` do not.

    Raises:
        UsageError: it says something else.
    """
    label = _LABELS.get(cell.strip().lower())
    if label is None:
        what = (
            "must be 0 or 1"
            if _NUMBER.fullmatch(cell.strip())
            else "is empty or not a number, expected 0 or 1"
        )
        raise wrong_row(path, row, f"column `{column}` {what}", code="data.label")
    return label


def unknown_criterion(
    path: Path, row: int, cell: str, catalogue: str, criteria: Sequence[Criterion]
) -> UsageError:
    """An error about a criterion that the catalogue does not have."""
    word = cell.strip()
    shown = f"criterion `{word}`" if NAME.fullmatch(word) else "the criterion"
    beside = path.with_name("criteria.json")
    hint = f"it has: {', '.join(criterion.name for criterion in criteria)}"
    if beside.is_file():
        hint = f"set `data.criteria` to the `{beside.name}` beside `{path.name}`"
    return wrong_row(
        path,
        row,
        f"{shown} is not in `{Path(catalogue).name}`",
        code="data.unknown_criterion",
        hint=hint,
    )
