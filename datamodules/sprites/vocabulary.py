"""The words of the Sprites world as byte-pair merges in which each of them is one token."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from datamodules.sprites.captions import caption
from datamodules.sprites.world import scene

# Rare words that no caption of the world contains: identifiers for subjects, one token each as "sks" is in CLIP.
IDENTIFIERS = ("sks", "zwx", "ohwx", "olis")
END = "</w>"


def world_words(num_scenes: int = 4000) -> list[str]:
    """Every word that the world's captions use, sorted, then the identifiers."""
    rng = np.random.default_rng(0)
    words = {word for index in range(num_scenes) for word in caption(scene(0, index), rng).split()}
    return [*sorted(words), *IDENTIFIERS]


def byte_pair_vocabulary(words: Iterable[str], alphabet: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A CLIP-style vocabulary and its merges: each word becomes one token, any other text falls into `alphabet`.

    A new merge ranks below all earlier ones, so it cannot change how an earlier word is built up.

    Returns:
        token → id with `<|startoftext|>` and `<|endoftext|>` last, as in CLIP; the merges in order of rank.
    """
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = apply_merges(word, merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    letters = list(dict.fromkeys(alphabet))
    tokens = [*letters, *(letter + END for letter in letters), *("".join(merge) for merge in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}, merges


def apply_merges(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """The pieces of `word` after byte-pair encoding: the lowest-ranking pair that is present is joined first."""
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    pieces = [*word[:-1], word[-1] + END]
    while pairs := [pair for pair in pairwise(pieces) if pair in ranks]:
        first, second = min(pairs, key=ranks.__getitem__)
        joined: list[str] = []
        for piece in pieces:
            if joined and joined[-1] == first and piece == second:
                joined[-1] = first + second
            else:
                joined.append(piece)
        pieces = joined
    return pieces
