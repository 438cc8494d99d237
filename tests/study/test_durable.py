"""JSON files that are whole or not there."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from criteria_cli.study.durable import write_json


def test_many_writers_of_one_file_with_one_process_id_do_not_disturb_each_other(
    tmp_path: Path,
) -> None:
    """Workers in containers share a folder, and each of them is process 1."""
    path = tmp_path / "study.json"

    def write(number: int) -> None:
        for _ in range(20):
            write_json(path, {"number": number, "bulk": "x" * 10_000})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(json.loads(path.read_bytes())["bulk"]) == 10_000
    assert list(tmp_path.iterdir()) == [path]
