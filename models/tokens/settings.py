"""`token=learned`: new words of the text encoder, their settings and all checks of them; `rows` trains them.

Imports no torch, so that a token that cannot be is refused before anything slow starts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from datamodules.subject import Subject

TOKEN_FILE = "learned_embeds.safetensors"  # diffusers' own name for it

_OF_OTHERS = ("class_word", "initializer", "num_vectors")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedToken:
    """The tokens that textual inversion (arXiv:2208.01618) or DCO's pivotal tuning (arXiv:2402.12004) learns.

    The first one is the subject's identifier. `others` are more of them, DCO's `<dog> in <style>`: their names without
    brackets, each with the `class_word` that the frozen model reads in its place, and with an `initializer` or
    `num_vectors` of its own where those of the first do not suit it.

    Args:
        placeholder: how prompts write the first one, "<subject>".
        initializer: the word whose embedding it starts as, one token of the model, or as many as it has vectors;
            "{class_word}" is filled in; None starts at random.
        num_vectors: embeddings that one placeholder stands for, each of which takes a token of the prompt's length.
        lr: their own learning rate; 5e-6 in DCO, beside 5e-5 for the denoiser.
        others: `{"style": {"class_word": "flat"}}` is written `<style>` in prompts and captions.

    Raises:
        ValueError: one of them cannot be, named.
    """

    placeholder: str
    initializer: str | None
    num_vectors: int
    lr: float
    others: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        for name, settings in self.others.items():
            self._check_other(name, settings)
        self._check_different([self.placeholder, *self.class_words])
        self.tokens(class_word="")  # each refuses what it cannot be
        if not self.lr > 0:
            raise ValueError(f"token.lr={self.lr}: a learned token needs a positive one")

    def _check_different(self, placeholders: list[str]) -> None:
        for one, other in combinations(placeholders, 2):
            if one.lower() in other.lower() or other.lower() in one.lower():
                raise ValueError(
                    f"token: {one!r} and {other!r} cannot be told apart in prompts: rename one of them "
                    "(token.placeholder, or its key in token.others)"
                )

    def _check_other(self, name: str, settings: Any) -> None:
        key = f"token.others.{name}"
        if not re.fullmatch(r"[\w-]+", str(name)):
            raise ValueError(f"{key}: letters, digits, - and _ make a name; 'style' is written <style> in prompts")
        if not isinstance(settings, Mapping) or not str(settings.get("class_word") or "").strip():
            raise ValueError(
                f"{key}.class_word is missing: the frozen model's prompts need a word in place of <{name}> "
                f"(+{key}.class_word=…)"
            )
        if unknown := sorted(set(settings) - set(_OF_OTHERS)):
            raise ValueError(f"unknown key '{key}.{unknown[0]}': it takes {', '.join(_OF_OTHERS)}")
        if "initializer" not in settings and self.initializer and "{class_word}" not in self.initializer:
            raise ValueError(
                f"{key}.initializer is missing, and token.initializer={self.initializer!r} is the first one's word: "
                f"give it its own (+{key}.initializer=…, or null for a random start)"
            )

    @property
    def class_words(self) -> dict[str, str]:
        """What stands for each of `others` in the frozen model's prompts, by placeholder: `{"<style>": "flat"}`."""
        return {f"<{name}>": str(settings["class_word"]) for name, settings in self.others.items()}

    @property
    def files(self) -> dict[str, str]:
        """The file of each in a run folder, by placeholder."""
        stem, suffix = TOKEN_FILE.split(".")
        return {self.placeholder: TOKEN_FILE} | {f"<{name}>": f"{stem}_{name}.{suffix}" for name in self.others}

    def tokens(self, class_word: str) -> tuple[PlaceholderToken, ...]:
        """All of them, the first with the subject's `class_word`."""
        given: dict[str, Mapping[str, Any]] = {"token": {"class_word": class_word}}
        given |= {f"token.others.{name}": settings for name, settings in self.others.items()}
        found = []
        for (key, settings), placeholder in zip(given.items(), self.files, strict=True):
            initializer = settings.get("initializer", self.initializer)
            if initializer is not None:
                initializer = str(initializer).replace("{class_word}", str(settings["class_word"]))
            num_vectors = settings.get("num_vectors", self.num_vectors)
            found.append(
                PlaceholderToken(key=key, placeholder=placeholder, initializer=initializer, num_vectors=num_vectors)
            )
        return tuple(found)

    def check(self, pretrained: str, subject: Subject) -> None:
        """Whether the data's prompts and the tokenizer in the folder `pretrained` can take them.

        The frozen model's prompts have to have `class_words` in them by now (`with_class_words`).

        Of a hub id only the prompts are checked; `TokenRows` then asks the tokenizer where the model is loaded.

        Raises:
            ValueError: see `check_prompts` and `PlaceholderToken.initial_ids`.
        """
        self.check_prompts(subject)
        folder = Path(pretrained).expanduser() / "tokenizer"
        if folder.is_dir():
            from transformers import CLIPTokenizer

            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            for each in self.tokens(subject.class_word):
                each.initial_ids(tokenizer)

    def check_prompts(self, subject: Subject) -> None:
        """Raises:
        ValueError: a prompt of the student lacks the first token, or all training prompts lack another one; or a
            prompt of the frozen model has one of them.
        """
        if subject.identifier != self.placeholder:
            raise ValueError(
                f"data.identifier={subject.identifier!r} is not token.placeholder={self.placeholder!r}: set the "
                "placeholder alone, token=learned makes it the identifier"
            )
        train = [picture.prompts for picture in subject.train]
        pairs = [*train, *(picture.prompts for picture in subject.heldout), *subject.evaluation_prompts]
        for pair in pairs:
            if self.placeholder not in pair.instance:
                raise ValueError(f"prompt {pair.instance!r} lacks token.placeholder={self.placeholder!r}: write it so")
        for each in self.tokens(subject.class_word):
            if not any(each.placeholder in pair.instance for pair in train):
                raise ValueError(
                    f"{each.named} stands in no training prompt ({train[0].instance!r}, …), so nothing would train "
                    "it: write it into the captions or data.instance_prompt"
                )
            for prompt in (pair.instance for pair in pairs):
                if prompt.count(each.placeholder) != prompt.lower().count(each.placeholder.lower()):
                    raise ValueError(f"prompt {prompt!r}: write {each.placeholder} in these letters")
            for prompt in (*(pair.prior for pair in pairs), subject.class_prompt):
                if each.placeholder.lower() in prompt.lower():  # an added token is found inside words as well
                    raise ValueError(
                        f"{each.named} is a part of {prompt!r}, the frozen model's prompt: put it into angle "
                        "brackets, away from other letters, or choose another"
                    )

    def find(self, run_dir: Path) -> list[Path]:
        """The files in `run_dir` that hold the trained embeddings, one for each placeholder.

        Raises:
            FileNotFoundError: one is not there.
        """
        for placeholder, name in self.files.items():
            if not (run_dir / name).is_file():
                raise FileNotFoundError(
                    f"{run_dir / name}, which holds {placeholder}, is missing: finish that run, or put it back"
                )
        return [run_dir / name for name in self.files.values()]

    def load(self, pipeline: Any, run_dir: Path) -> None:
        """Puts what was trained into a pretrained `pipeline`, by diffusers' loading, which refuses a second time."""
        for path in self.find(run_dir):
            pipeline.load_textual_inversion(str(run_dir), weight_name=path.name, use_safetensors=True)


@dataclass(frozen=True, slots=True)
class TunedWithToken:
    """A finished run's adapter, whose `load` brings the learned tokens along."""

    adapter: Any
    token: LearnedToken

    def load(self, model: Any, run_dir: Path) -> None:
        self.token.load(model.pipeline, run_dir)
        self.adapter.load(model, run_dir)
