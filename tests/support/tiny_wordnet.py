"""A WordNet of a few words, in the files that WordNet itself has (wndb(5WN))."""

from __future__ import annotations

from pathlib import Path

KINDS = {"noun": ("n", 1), "verb": ("v", 2), "adj": ("a", 3), "adv": ("r", 4)}

SYNSETS: dict[str, tuple[tuple[tuple[str, int], ...], ...]] = {
    # words of one sense, each with how often a tagged corpus has it
    "noun": (
        (("doctor", 9), ("physician", 4), ("medico", 0)),
        (("guilt", 5), ("guilty_conscience", 3), ("shame", 2)),
        (("exhausted", 0), ("pipe", 1)),
        # of the synthetic corpus
        (("week", 9), ("hebdomad", 1)),
        (("sky", 6), ("welkin", 1)),
        (("town", 9), ("burg", 1)),
        (("funeral", 4), ("burial", 2)),
        (("mistake", 6), ("error", 5), ("slip", 1)),
        (("morning", 8), ("dawn", 2)),
        (("month", 9), ("moon", 1)),
    ),
    "verb": (
        (("weep", 3), ("sob", 2)),
        (("stop", 8), ("cease", 6), ("end", 5)),
        (("carry", 4), ("bear", 3), ("ferry", 1)),
    ),
    "adj": (
        (("exhausted", 7), ("drained", 2)),
        (("miserable", 3), ("wretched", 2), ("woeful", 1)),
        (("useless", 3), ("futile", 2)),
        (("sad", 5), ("doleful", 1)),
    ),
    "adv": ((("soon", 5), ("shortly", 2)),),
}
EXCEPTIONS = {
    "verb": (
        *("bore bear", "carried carry", "sobbed sob", "sobbing sob", "stopped stop"),
        *("stopping stop", "wept weep"),
    ),
    "noun": ("men man",),
}


def write_tiny_wordnet(folder: Path) -> Path:
    """Write the files; answer the folder."""
    folder.mkdir()
    counts = ["0%1:00:00:: 1 1\n"]  # nltk never finds the first line
    for kind, (letter, number) in KINDS.items():
        licence = "  1 A WordNet of a few words. WordNet 0.1 Copyright nobody.  \n"
        data, index = licence, {}
        for words in SYNSETS[kind]:
            offset = len(data)
            listed = " ".join(f"{word} 0" for word, _ in words)
            data += f"{offset:08d} 00 {letter} {len(words):02x} {listed} 000 | a sense  \n"
            for word, count in words:
                index.setdefault(word, []).append(offset)
                if count:
                    counts.append(f"{word}%{number}:00:00:: 1 {count}\n")
        (folder / f"data.{kind}").write_text(data)
        lines = [
            f"{word} {letter} {len(offsets)} 0 {len(offsets)} 0 "
            + " ".join(f"{offset:08d}" for offset in offsets)
            + "  \n"
            for word, offsets in sorted(index.items())
        ]
        (folder / f"index.{kind}").write_text(licence + "".join(lines))
        (folder / f"{kind}.exc").write_text(
            "".join(f"{line}\n" for line in EXCEPTIONS.get(kind, ()))
        )
    (folder / "cntlist.rev").write_text("".join(sorted(counts)))
    return folder
