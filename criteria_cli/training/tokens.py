"""Tokens of posts and criteria, made once.

A post appears with every criterion and a criterion with every post, so each text is tokenised once
per study and tokenizer, and kept in a file that every trainer of the machine maps into its memory.
`token_pairs.py` puts pairs together from them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from criteria_cli.training.tensor_files import create_private, refuse_in_the_way

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Integers = NDArray[np.int64]
Tokens = NDArray[np.int32]

_LAYOUT = 1
_DIGEST = 8
"""Numbers, of 32 bits each, that the digest at the head of a file has."""
_CHUNK = 512
"""Texts handed to the tokenizer at once: enough for its threads, little in Python objects."""


@dataclass(frozen=True)
class TokenTexts:
    """Token ids of many texts, without special tokens, one after another."""

    ids: Tokens
    offsets: Integers
    """(texts + 1,): text `i` is `ids[offsets[i] : offsets[i + 1]]`."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, text: int) -> Tokens:
        return self.ids[self.offsets[text] : self.offsets[text + 1]]

    @property
    def lengths(self) -> Integers:
        """(texts,) tokens of each text."""
        return self.offsets[1:] - self.offsets[:-1]

    def extended(self, more: TokenTexts) -> TokenTexts:
        """These texts followed by `more`."""
        return TokenTexts(
            np.concatenate([self.ids, more.ids]),
            np.concatenate([self.offsets, more.offsets[1:] + self.offsets[-1]]),
        )


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> TokenTexts:
    """Tokenise each text whole: no special tokens, nothing cut."""
    parts: list[Tokens] = []
    lengths: list[int] = []
    for start in range(0, len(texts), _CHUNK):
        encoded = tokenizer(
            list(texts[start : start + _CHUNK]),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        lengths.extend(map(len, encoded))
        parts.extend(np.asarray(ids, dtype=np.int32) for ids in encoded)
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return TokenTexts(np.concatenate(parts) if parts else np.zeros(0, np.int32), offsets)


def cached_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], folder: Path
) -> TokenTexts:
    """`tokenize`, kept in `folder` under a key of tokenizer and texts and mapped from there.

    Trainers that need the same tokens at the same time wait for the one that makes them. The file
    is readable by its owner alone: token ids are as private as the texts. A file that is damaged,
    or of an older form, is made again.

    Raises:
        MachineError: something else stands in the file's place.
    """
    path = folder / f"{_content_key(tokenizer, texts)}.npy"
    for place in (path, _partial(path), _lock(path)):
        refuse_in_the_way(place)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = _open(path, len(texts))
    if found is None:
        with _locked(_lock(path)):
            found = _open(path, len(texts))
            if found is None:
                _write(path, tokenize(tokenizer, texts))
                found = _open(path, len(texts))
    assert found is not None, "tokens just written cannot be read"
    return found


def _content_key(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> str:
    digest = hashlib.sha256(f"criteria tokens {_LAYOUT}\n".encode())
    digest.update(tokenizer_fingerprint(tokenizer).encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of everything that decides which ids a text becomes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        vocabulary = sorted(tokenizer.get_vocab().items())
        definition = f"{type(tokenizer).__name__} {tokenizer.init_kwargs} {vocabulary}"
    else:
        backend.no_truncation()  # a former call's settings are no part of what it is
        backend.no_padding()
        definition = backend.to_str()
    return hashlib.sha256(definition.encode("utf-8", "surrogatepass")).hexdigest()


def _open(path: Path, texts: int) -> TokenTexts | None:
    """The tokens in a file, or None where there is none or not a whole one.

    Layout: a digest of the rest, the length of each text, then all ids, int32.
    """
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TokenError):  # the last of a bad header
        return None
    if stored.dtype != np.int32 or stored.ndim != 1 or len(stored) < _DIGEST + texts:
        return None
    # a wrong id would train a wrong model without a word; the file is read anyway, and this costs
    # 0.7 s per GB of it
    if not np.array_equal(stored[:_DIGEST], _digest(path.stem, stored[_DIGEST:])):
        return None
    lengths, ids = stored[_DIGEST : _DIGEST + texts], stored[_DIGEST + texts :]
    offsets = np.zeros(texts + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return TokenTexts(ids, offsets) if len(ids) == offsets[-1] else None


def _digest(key: str, content: Tokens) -> Tokens:
    """(_DIGEST,) of a file's content under its key: another's file is as wrong as a damaged one."""
    digest = hashlib.blake2b(key.encode(), digest_size=4 * _DIGEST)
    digest.update(content.data)
    return np.frombuffer(digest.digest(), dtype=np.int32)


def _write(path: Path, tokens: TokenTexts) -> None:
    head = np.zeros(_DIGEST, dtype=np.int32)
    whole = np.concatenate([head, tokens.lengths.astype(np.int32), tokens.ids])
    whole[:_DIGEST] = _digest(path.stem, whole[_DIGEST:])
    partial = _partial(path)
    with os.fdopen(create_private(partial), "wb") as file:
        np.save(file, whole, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _partial(path: Path) -> Path:
    return path.with_suffix(".partial")


def _lock(path: Path) -> Path:
    return path.with_suffix(".lock")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # freed with the file, or with the process
        yield
