from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_wordnet import write_tiny_wordnet

from criteria_cli.data.corpus import Corpus
from criteria_cli.data.formats import load_corpus
from criteria_cli.study.spec import DataSpec

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development data beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("the development data is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def contracts(shared: Path) -> Corpus:
    spec = DataSpec(path="contractnli", criteria="contractnli/criteria.json")
    return load_corpus(spec, shared)


@pytest.fixture(scope="session")
def synthetic() -> Corpus:
    return load_corpus(DataSpec(format="synthetic"), Path())


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Write a private file: `put("posts.csv", "post_id,text", "p1,hello")`."""

    def write(name: str, *lines: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = b"".join(
            (line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines
        )
        path.write_bytes(content)
        path.chmod(0o600)
        return path

    return write


@pytest.fixture(scope="session")
def tiny_wordnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WordNet of a few words."""
    return write_tiny_wordnet(tmp_path_factory.mktemp("wordnet") / "dict")
