"""The grids in which the two models are watched while they draw: where they lie, and what a reader should know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRAJECTORY, TOKEN_ATTENTION = "trajectory", "token_attention"  # folders below samples/, and keys below evaluation
_TITLES = {TRAJECTORY: "Predicted x0 along the denoising", TOKEN_ATTENTION: "Cross-attention to each token"}
_TEXTS = {
    TRAJECTORY: (
        "What each model believes the clean picture to be, from pure noise on the left to the picture on the right; "
        "both start from the same noise."
    ),
    TOKEN_ATTENTION: (
        "Where in the picture that it drew each model attends to a token, mean over heads, layers and noise levels: "
        "each map from its least value (dark) to its greatest (bright), below it the token's share of all attention. "
        "The shares of a column can be compared; the start token and the padding take the rest."
    ),
}


@dataclass(frozen=True, slots=True)
class DiagnosticGrid:
    """A grid: its file, heading, explanation, alternative text, and the tuned and the base model's prompts."""

    path: Path
    title: str
    text: str
    alt: str
    prompt: str
    prior_prompt: str


def diagnostic_grids(samples: Path, entries: Sequence[Mapping[str, Any]]) -> list[DiagnosticGrid]:
    """All grids of a run, trajectories first.

    Args:
        samples: the folder that has them.
        entries: of its `samples.json`, by the number of the prompt.

    Raises:
        ValueError: a file is not named after the number of a prompt.
    """
    found = []
    for kind, title in _TITLES.items():
        for path in sorted((samples / kind).glob("*.png")):
            if not path.stem.isdecimal() or int(path.stem) >= len(entries):
                raise ValueError(
                    f"{path}: not named after a prompt's number in {samples / 'samples.json'}; move it away"
                )
            prompts = {key: entries[int(path.stem)][key] for key in ("prompt", "prior_prompt")}
            alt = f"{title}, a row of the base and one of the tuned model, prompt {prompts['prompt']!r}."
            found.append(DiagnosticGrid(path, title, _TEXTS[kind], alt, **prompts))
    return found
