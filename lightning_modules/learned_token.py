"""`token=learned`: a new word of the text encoder, its settings and all checks of them; `token_rows` trains it.

Imports no torch, so that a token that cannot be is refused before anything slow starts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.subject import Subject

TOKEN_FILE = "learned_embeds.safetensors"  # diffusers' own name for it


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedToken:
    """A token that textual inversion (arXiv:2208.01618) or DCO's pivotal tuning (arXiv:2402.12004) learns.

    Args:
        placeholder: how prompts write it, "<subject>".
        initializer: the word, one token of the model, whose embedding it starts as; "{class_word}" is filled in; None
            starts at random.
        num_vectors: embeddings that the one placeholder stands for, each of which takes a token of the prompt's length.
        lr: their own learning rate; 5e-6 in DCO, beside 5e-5 for the UNet.

    Raises:
        ValueError: one of them cannot be, named.
    """

    placeholder: str
    initializer: str | None
    num_vectors: int
    lr: float

    def __post_init__(self) -> None:
        if self.placeholder.split() != [self.placeholder]:
            raise ValueError(f"token.placeholder={self.placeholder!r}: one word without spaces is needed, '<subject>'")
        if self.num_vectors < 1:
            raise ValueError(f"token.num_vectors={self.num_vectors}: at least one vector is needed to learn anything")
        if not self.lr > 0:
            raise ValueError(f"token.lr={self.lr}: a learned token needs a positive one")

    @property
    def names(self) -> list[str]:
        """The tokens that the placeholder expands to, as diffusers names them: `<t>`, `<t>_1`, …"""
        return [self.placeholder, *(f"{self.placeholder}_{i}" for i in range(1, self.num_vectors))]

    def initial_word(self, class_word: str) -> str | None:
        """The word that the token starts as, None where it starts at random."""
        return None if self.initializer is None else self.initializer.replace("{class_word}", class_word)

    def check(self, pretrained: str, subject: Subject) -> None:
        """Whether the data's prompts and the tokenizer in the folder `pretrained` can take this token.

        Of a hub id only the prompts are checked; `check_tokenizer` then follows where the model is loaded.

        Raises:
            ValueError: see `check_prompts` and `check_tokenizer`.
        """
        self.check_prompts(subject)
        folder = Path(pretrained).expanduser() / "tokenizer"
        if folder.is_dir():
            from transformers import CLIPTokenizer

            self.check_tokenizer(CLIPTokenizer.from_pretrained(folder, local_files_only=True), subject.class_word)

    def check_prompts(self, subject: Subject) -> None:
        """Raises:
        ValueError: a prompt of the student lacks the token, or one of the frozen model has it.
        """
        if subject.identifier != self.placeholder:
            raise ValueError(
                f"data.identifier={subject.identifier!r} is not token.placeholder={self.placeholder!r}: set the "
                "placeholder alone, token=learned makes it the identifier"
            )
        pairs = [picture.prompts for picture in (*subject.train, *subject.heldout)] + [*subject.evaluation_prompts]
        for pair in pairs:
            if self.placeholder not in pair.instance:
                raise ValueError(f"prompt {pair.instance!r} lacks token.placeholder={self.placeholder!r}: write it so")
        for prompt in (*(pair.prior for pair in pairs), subject.class_prompt):
            if self.placeholder.lower() in prompt.lower():  # an added token is found inside words as well
                raise ValueError(
                    f"token.placeholder={self.placeholder!r} is a part of {prompt!r}, the frozen model's prompt: put "
                    "it into angle brackets, or choose another"
                )

    def check_tokenizer(self, tokenizer: Any, class_word: str) -> None:
        """Raises:
        ValueError: `tokenizer` has the token already, or knows no such word to start as.
        """
        for name in self.names:
            if len(tokenizer.tokenize(name)) == 1:
                raise ValueError(
                    f"token.placeholder={self.placeholder!r}: this model has the token {name!r} already; choose a new "
                    "one in angle brackets, or leave token=learned out to use that word"
                )
        word = self.initial_word(class_word)
        if word is None:
            return
        pieces = tokenizer.tokenize(word)
        if len(pieces) != 1 or pieces == [tokenizer.unk_token]:
            raise ValueError(
                f"token.initializer={word!r} is {len(pieces)} tokens to this model ({', '.join(pieces)}): choose one "
                "word that it knows, or null for a random start"
            )

    def find(self, run_dir: Path) -> Path:
        """The file in `run_dir` that holds the trained embeddings.

        Raises:
            FileNotFoundError: it is not there.
        """
        path = run_dir / TOKEN_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}, which holds {self.placeholder}, is missing: finish that run, or put it back"
            )
        return path

    def load(self, pipeline: Any, run_dir: Path) -> None:
        """Puts what was trained into a pretrained `pipeline`, by diffusers' loading, which refuses a second time."""
        path = self.find(run_dir)
        pipeline.load_textual_inversion(str(run_dir), weight_name=path.name, use_safetensors=True)


@dataclass(frozen=True, slots=True)
class TunedWithToken:
    """A finished run's adapter, whose `load` brings the learned token along."""

    adapter: Any
    token: LearnedToken

    def load(self, pipeline: Any, run_dir: Path) -> None:
        self.token.load(pipeline, run_dir)
        self.adapter.load(pipeline, run_dir)
