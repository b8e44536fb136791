"""A subject of the Sprites world, of which more is known than of any photograph."""

from dataclasses import dataclass

from datamodules.sprites.attributes import asked
from datamodules.subject import Picture, PromptPair, Subject


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedSubject(Subject):
    """A `Subject` whose pictures the world's judge can read; a photographed one has none of this.

    Args:
        is_object: whether the subject is one object, so that its identity can be told; not so of a style, in which
            every noun is another object.
        distractors: objects of the subject's noun that are not the subject, in the scenes of the held-out pictures;
            empty where there are none. Identity is validated by them.
    """

    is_object: bool
    distractors: tuple[Picture, ...] = ()


def keeps_paint(prompts: PromptPair) -> bool:
    """Whether the subject keeps its colours and its pattern; identity leaves the other prompts out.

    Raises:
        ValueError: the prompt names no object of the world.
    """
    wanted = asked(prompts.prior).objects[0]
    return not (wanted.color or wanted.texture)
