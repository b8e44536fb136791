"""A subject from any folder of pictures."""

import os
from collections.abc import Sequence
from pathlib import Path

from datamodules.captions import read_captions
from datamodules.pictures import hold_out, read_pictures
from datamodules.subject import Picture, PromptPair, Subject, prompt_pair


def folder(
    *,
    root: str,
    instance_prompt: str,
    class_word: str,
    identifier: str | None,
    replaces_class_word: bool,
    evaluation_prompts: Sequence[str],
    num_heldout: int,
    skip_broken: bool,
) -> Subject:
    """The subject shown in `root`, named after that folder.

    Args:
        root: a folder of pictures, with or without captions (`read_captions` says how they are stored).
        instance_prompt: the prompt of every picture that has no caption; its prior form is the class prompt.
        class_word: one or more words, "stuffed animal".
        identifier, replaces_class_word: the word that stands for the subject, None for none; see `prompt_pair`.
        evaluation_prompts: templates with {identifier} and {class_word}.
        num_heldout: how many pictures, the last in natural order, are never trained on.
        skip_broken: leave out a picture that cannot be read, with a warning, instead of refusing the folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a picture, caption or prompt (named) cannot be used, or nothing is left to train on.
    """
    where = Path(os.path.abspath(Path(root).expanduser()))  # "." has no name of its own

    def prompts(template: str, source: str | Path) -> PromptPair:
        try:
            return prompt_pair(
                template, identifier=identifier, class_word=class_word, replaces_class_word=replaces_class_word
            )
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None

    # Pictures come last: decoding them is the one slow check.
    instance = prompts(instance_prompt, "data.instance_prompt")
    evaluation = tuple(prompts(each, f"data.evaluation_prompts[{i}]") for i, each in enumerate(evaluation_prompts))
    captions = {name: prompts(text, f"caption of {where / name}") for name, text in read_captions(where).items()}
    pictures = [
        Picture(image=image, prompts=captions.get(path.name, instance), name=path.name)
        for path, image in read_pictures(where, skip_broken=skip_broken)
    ]
    train, heldout = hold_out(pictures, num_heldout=num_heldout, source=where)
    return Subject(
        name=where.name,
        identifier=identifier,
        class_word=class_word,
        class_prompt=instance.prior,
        train=train,
        heldout=heldout,
        evaluation_prompts=evaluation,
    )
