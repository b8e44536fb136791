"""What of a text encoder a learned token trains: its own rows of the embedding, through PEFT's trainable tokens."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from peft import TrainableTokensConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_modules import draws
from lightning_modules.draws import DrawStream
from lightning_modules.learned_token import TOKEN_FILE, LearnedToken
from lightning_modules.stable_diffusion import StableDiffusion


class TokenRows(nn.Module):
    """The rows of `token` in one text encoder: all of it that trains, in float32 whatever the encoder's dtype.

    The token is added to `tokenizer` and `text_encoder`, which read it from then on; every other row stays as it is.

    Args:
        token: what to add.
        tokenizer, text_encoder: of a pipeline, both of CLIP's kind.
        class_word: of the subject, for the token's initializer.
        seed: of a random start, which has the mean and the deviation of the embedding's entries; not stated in the
            sources.

    Raises:
        ValueError: see `LearnedToken.check_tokenizer`.
    """

    def __init__(self, token: LearnedToken, tokenizer: Any, text_encoder: Any, *, class_word: str, seed: int) -> None:
        super().__init__()
        token.check_tokenizer(tokenizer, class_word)
        word = token.initial_word(class_word)
        tokenizer.add_tokens(token.names)
        ids = tokenizer.convert_tokens_to_ids(token.names)
        # Some models have spare rows behind their vocabulary; they are used, and never cut off.
        size = max(len(tokenizer), text_encoder.get_input_embeddings().num_embeddings)
        text_encoder.resize_token_embeddings(size, mean_resizing=False).requires_grad_(False)
        pool_at_eos(tokenizer, text_encoder)

        embedding = text_encoder.get_input_embeddings()
        with torch.no_grad():
            if word is None:
                known = embedding.weight[: min(ids)].float()
                noise = draws.normal(seed, DrawStream.TOKEN, torch.arange(len(ids)), (known.shape[1],))
                embedding.weight[ids] = (known.mean() + known.std() * noise).to(embedding.weight)
            else:
                embedding.weight[ids] = embedding.weight[tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word))]
        name = next(name for name, module in text_encoder.named_modules() if module is embedding)
        inject_adapter_in_model(TrainableTokensConfig(token_indices=ids, target_modules=[name]), text_encoder)
        cast_training_params(text_encoder)
        self.rows: nn.Parameter = text_encoder.get_input_embeddings().trainable_tokens_delta["default"]
        self.register_buffer("norms", self.rows.detach().norm(dim=1, keepdim=True), persistent=False)

    @torch.no_grad()
    def keep_norm(self) -> None:
        """Resets every row's norm to what it started with, as DCO's official code does after each optimiser step."""
        self.rows.mul_(self.norms / self.rows.norm(dim=1, keepdim=True))


def pool_at_eos(tokenizer: Any, text_encoder: Any) -> None:
    """Makes `text_encoder` pool at the real end of the text, wherever its config says `eos_token_id: 2`.

    Transformers takes such a config, which Stable Diffusion 1.5 and SDXL have, as a sign to pool at the largest id:
    that would be the new token.
    """
    for module in text_encoder.modules():
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = tokenizer.eos_token_id
    text_encoder.config.eos_token_id = tokenizer.eos_token_id


def save_rows(token: LearnedToken, rows: Mapping[str, TokenRows], run_dir: Path) -> Path:
    """Writes `[num_vectors, D]` in float32 under the token's name, as diffusers' `load_textual_inversion` reads it.

    Args:
        rows: of a pipeline's text encoders, by their names in it; only one can be told to diffusers in this form.
    """
    (only,) = rows.values()
    save_file({token.placeholder: only.rows.detach().cpu().contiguous()}, run_dir / TOKEN_FILE, {"format": "pt"})
    return run_dir / TOKEN_FILE


class LivePrompts:
    """Prompts that go through the text encoder in every step, since a row of it trains; each distinct one once.

    Outside autocast, so that they are encoded exactly as the frozen model's prompts were before training.

    Args:
        model: the pipeline whose text encoder has the token.
        prompts: to choose from.
        send: brings a tensor from the CPU to the device.
    """

    def __init__(self, model: StableDiffusion, prompts: Sequence[str], send: Callable[[Tensor], Tensor]) -> None:
        distinct = list(dict.fromkeys(prompts))
        self._model, self._send = model, send
        self._ids, self._mask = model.tokenize(distinct)
        self._number = torch.tensor([distinct.index(prompt) for prompt in prompts])

    def __call__(self, index: Tensor) -> Tensor:
        """Hidden states `[B, tokens, D]` of the prompts `index` `[B]` (on the CPU), with a gradient to the token."""
        numbers, rows = self._number[index].unique(return_inverse=True)
        mask = None if self._mask is None else self._send(self._mask[numbers])
        ids = self._send(self._ids[numbers])
        with torch.autocast(ids.device.type, enabled=False):
            states = self._model.encode_tokens(ids, mask)
        return states[self._send(rows)]
