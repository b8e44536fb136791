"""One placeholder of a learned token: the word that it starts as, its vectors, and the checks of it alone; no torch."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceholderToken:
    """A placeholder of prompts, and the embeddings that it stands for.

    Args:
        key: its node in the config, for messages: "token", or "token.others.style".
        placeholder: how prompts write it, "<subject>".
        initializer: the word or words whose embeddings it starts as, one for all vectors or one for each; None starts
            at random.
        num_vectors: embeddings that the placeholder stands for, each of which takes a token of the prompt's length.

    Raises:
        ValueError: one of them cannot be, named.
    """

    key: str
    placeholder: str
    initializer: str | None
    num_vectors: int

    def __post_init__(self) -> None:
        if self.placeholder.split() != [self.placeholder]:
            raise ValueError(f"{self.named}: one word without spaces is needed, '<subject>'")
        if not isinstance(self.num_vectors, int) or self.num_vectors < 1:
            raise ValueError(
                f"{self.key}.num_vectors={self.num_vectors}: at least one vector is needed to learn anything"
            )
        if self.num_vectors > 1 and self.placeholder != self.placeholder.lower():
            raise ValueError(f"{self.named}: diffusers spells several vectors out in lower case only; write it so")

    @property
    def named(self) -> str:
        """What messages call it."""
        if self.key == "token":
            return f"token.placeholder={self.placeholder!r}"
        return f"{self.key} ({self.placeholder!r} in prompts)"

    @property
    def names(self) -> list[str]:
        """The tokens that the placeholder expands to, as diffusers names them: `<t>`, `<t>_1`, …"""
        return [self.placeholder, *(f"{self.placeholder}_{i}" for i in range(1, self.num_vectors))]

    def initial_ids(self, tokenizer: Any) -> list[int] | None:
        """Ids of the tokens whose embeddings its vectors start as, one for each; None where they start at random.

        Raises:
            ValueError: `tokenizer` has the placeholder already, or knows no such words to start as.
        """
        for name in self.names:
            if len(tokenizer.tokenize(name)) == 1:
                raise ValueError(
                    f"{self.named}: this model has the token {name!r} already; choose a new one in angle brackets, or "
                    "leave it out to use that word"
                )
        if self.initializer is None:
            return None
        pieces = tokenizer.tokenize(self.initializer)
        if len(pieces) not in (1, self.num_vectors) or tokenizer.unk_token in pieces:
            raise ValueError(
                f"{self.key}.initializer={self.initializer!r} is {len(pieces)} tokens to this model "
                f"({', '.join(pieces)}): choose one word that it knows, or as many as {self.key}.num_vectors="
                f"{self.num_vectors}, or null for a random start"
            )
        ids: list[int] = tokenizer.convert_tokens_to_ids(pieces)
        return ids * (self.num_vectors // len(ids))
