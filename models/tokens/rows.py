"""What of a text encoder learned tokens train: their own rows of the embedding, through PEFT's trainable tokens."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from peft import TrainableTokensConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from datamodules import draws
from datamodules.draws import DrawStream
from datamodules.subject import Subject
from models.family import Condition, DiffusionFamily, moved
from models.tokens.settings import LearnedToken


class TokenRows(nn.Module):
    """The rows of `token` in one text encoder: all of it that trains, in float32 whatever the encoder's dtype.

    Its placeholders are added to `tokenizer` and `encoder`, which read them from then on; every other row stays as
    it is. `rows` `[vectors of all placeholders, D]` are in the order of `tokens`.

    Args:
        token: what to add.
        tokenizer, encoder: of a pipeline, both of CLIP's kind.
        class_word: of the subject, for the first token's initializer.
        seed: of a random start, which has the mean and the deviation of the embedding's entries; not stated in the
            sources.

    Raises:
        ValueError: see `PlaceholderToken.initial_ids`.
    """

    def __init__(self, token: LearnedToken, tokenizer: Any, encoder: Any, *, class_word: str, seed: int) -> None:
        super().__init__()
        self.tokens = token.tokens(class_word)
        starts = [each.initial_ids(tokenizer) for each in self.tokens]
        names = [name for each in self.tokens for name in each.names]
        tokenizer.add_tokens(names)
        ids = tokenizer.convert_tokens_to_ids(names)
        # Some models have spare rows behind their vocabulary; they are used, and never cut off.
        size = max(len(tokenizer), encoder.get_input_embeddings().num_embeddings)
        encoder.resize_token_embeddings(size, mean_resizing=False).requires_grad_(False)
        pool_at_eos(tokenizer, encoder)

        embedding = encoder.get_input_embeddings()
        known = embedding.weight[: min(ids)].float()
        noise = draws.normal(seed, DrawStream.TOKEN, torch.arange(len(ids)), (known.shape[1],))
        drawn = known.mean() + known.std() * noise
        first = 0
        with torch.no_grad():
            for each, start in zip(self.tokens, starts, strict=True):
                own = slice(first, first := first + each.num_vectors)
                embedding.weight[ids[own]] = (
                    drawn[own].to(embedding.weight) if start is None else embedding.weight[start]
                )
        name = next(name for name, module in encoder.named_modules() if module is embedding)
        inject_adapter_in_model(TrainableTokensConfig(token_indices=ids, target_modules=[name]), encoder)
        cast_training_params(encoder)
        self.rows: nn.Parameter = encoder.get_input_embeddings().trainable_tokens_delta["default"]
        self.register_buffer("norms", self.rows.detach().norm(dim=1, keepdim=True), persistent=False)

    @torch.no_grad()
    def keep_norm(self) -> None:
        """Resets every row's norm to what it started with, as DCO's official code does after each optimiser step."""
        self.rows.mul_(self.norms / self.rows.norm(dim=1, keepdim=True))


def pool_at_eos(tokenizer: Any, encoder: Any) -> None:
    """Makes `encoder` pool at the real end of the text, wherever its config says `eos_token_id: 2`.

    Transformers takes such a config, which Stable Diffusion 1.5 and SDXL have, as a sign to pool at the largest id:
    that would be the new token.
    """
    for module in encoder.modules():
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = tokenizer.eos_token_id
    encoder.config.eos_token_id = tokenizer.eos_token_id


def save_rows(token: LearnedToken, rows: Mapping[str, TokenRows], run_dir: Path) -> None:
    """Writes `[num_vectors, D]` in float32 under each placeholder, as diffusers' `load_textual_inversion` reads it.

    Each has a file of its own, for diffusers takes one key a file.

    Args:
        rows: of a pipeline's text encoders, by their names in it; only one can be told to diffusers in this form.
    """
    (only,) = rows.values()
    parts = only.rows.detach().cpu().split([each.num_vectors for each in only.tokens])
    for (placeholder, name), part in zip(token.files.items(), parts, strict=True):
        save_file({placeholder: part.contiguous()}, run_dir / name, {"format": "pt"})


class LivePrompts:
    """Prompts that go through the text encoders in every step, since a row of them trains; each distinct one once.

    Outside autocast, so that they are encoded exactly as the frozen model's prompts were before training.

    Args:
        model: the family whose encoders have the token.
        prompts: to choose from.
        send: brings a tensor from the CPU to the device.
    """

    def __init__(self, model: DiffusionFamily, prompts: Sequence[str], send: Callable[[Tensor], Tensor]) -> None:
        distinct = list(dict.fromkeys(prompts))
        self._model, self._send = model, send
        self._tokens = model.tokenize(distinct)
        self._number = torch.tensor([distinct.index(prompt) for prompt in prompts])

    def __call__(self, index: Tensor) -> Condition:
        """What the denoiser is given for the prompts `index` `[B]` (on the CPU), with a gradient to the token."""
        numbers, rows = self._number[index].unique(return_inverse=True)
        tokens = moved(self._tokens, lambda tensor: self._send(tensor[numbers]))
        rows = self._send(rows)
        with torch.autocast(rows.device.type, enabled=False):
            condition = self._model.encode_tokens(tokens)
        return condition[rows]


def warn_of_common_identifier(model: DiffusionFamily, subject: Subject) -> None:
    """Warns where the subject's identifier is more than one token of the model, each with a meaning of its own."""
    if subject.identifier is None:
        return
    pieces = model.encoders[0].tokenizer.tokenize(subject.identifier)
    if len(pieces) > 1:
        warnings.warn(
            f"identifier {subject.identifier!r} is {len(pieces)} tokens to this model ({', '.join(pieces)}), each "
            "with a meaning of its own: choose a rare word of one token, such as data.identifier=sks",
            stacklevel=2,
        )
