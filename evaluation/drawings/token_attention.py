"""Cross-attention maps of a prompt's tokens, tuned beside base model."""

import math
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from checks.values import at_least
from datamodules import draws
from datamodules.draws import DrawStream
from datamodules.subject import PromptPair
from datamodules.subject_datamodule import square_tensor
from models.attention import AttentionCapture, AttentionRecord, attention_maps
from models.capture import matching_submodules, resolve_sites
from models.family import DiffusionFamily
from report.attention import heat_overlay
from report.grid import tile
from report.tile_grid import Tile, tile_grid


class TokenAttention:
    """A map for each token of a prompt: where in the picture that it drew each model attends to that token.

    Each model looks at its own first sample of the prompt, noised by the same noise; the tuned model is given the
    prompt with the identifier, the base model the class word. Mean over heads, layers and timesteps.

    Args:
        sites: the cross-attention modules, by the family's symbolic names ("text") or by glob patterns
            ("up_blocks.*.attn2").
        num_timesteps: noise levels, in the middle of so many equal parts of the schedule.
    """

    def __init__(self, *, sites: list[str], num_timesteps: int) -> None:
        at_least("evaluation.token_attention.num_timesteps", num_timesteps, 1)
        self.sites, self.num_timesteps = list(sites), num_timesteps

    def check(self, model: DiffusionFamily) -> None:
        """Raises:
        ValueError: a pattern that matches nothing, named.
        """
        for patterns in resolve_sites(self.sites, model.sites).values():
            matching_submodules(model.denoiser, patterns)

    def __call__(
        self,
        model: DiffusionFamily,
        pair: PromptPair,
        base: Image.Image,
        tuned: Image.Image,
        *,
        seed: int,
        path: Path,
    ) -> None:
        """Writes the grid of both models' maps to `path`, in a folder made here.

        Args:
            model: with a run's adapter loaded into its pipeline.
            pair: the prompt.
            base, tuned: what the two models drew.
            seed: of the noise.
        """
        with model.pretrained_pipeline():
            base_maps = self._maps(model, pair.prior, base, seed)
        tuned_maps = self._maps(model, pair.instance, tuned, seed)
        columns = aligned(model.token_ids(pair.prior), model.token_ids(pair.instance))
        rows = {
            "base": _tiles(model, pair.prior, base, base_maps, [number for number, _ in columns]),
            "tuned": _tiles(model, pair.instance, tuned, tuned_maps, [number for _, number in columns]),
        }
        path.parent.mkdir(parents=True)
        tile_grid(rows).save(path)

    @torch.no_grad()
    def _maps(self, model: DiffusionFamily, prompt: str, picture: Image.Image, seed: int) -> Tensor:
        """Float32 `[tokens, h, w]` on the CPU, at the size of the largest layer; the columns are the text encoder's."""
        moments = model.encode_pictures(square_tensor(picture, model.resolution)[None])
        latents = model.latents(moments, torch.zeros_like(moments.chunk(2, dim=1)[0]))
        noise = draws.normal(seed, DrawStream.VALIDATION_NOISE, torch.zeros(1, dtype=torch.long), latents.shape[1:])
        condition, denoiser = model.encode_prompts([prompt]), model.network
        times = (torch.arange(self.num_timesteps) + 0.5) / self.num_timesteps
        capture = AttentionCapture(
            denoiser, self.sites, model.sites, text_columns=model.text_columns, image_rows=model.image_rows
        )
        maps: list[Tensor] = []
        for t in times.to(latents.device).split(1):
            noisy = model.noise_process.noisy(latents, noise.to(latents), t)
            with capture.recording() as captured:
                model.denoise(denoiser, noisy, t, condition)
            maps += [_picture_to_text(record) for record in captured.values()]
        capture.remove()
        return mean_maps(maps).cpu()


def _picture_to_text(record: AttentionRecord) -> Tensor:
    """The first row's map `[heads, queries, tokens]`, of the picture's queries and the prompt's keys."""
    query = record.query[:1, :, record.image_rows]
    return attention_maps(query, record.key[:1], scale=record.scale)[0, ..., record.text_columns]


def mean_maps(maps: Sequence[Tensor]) -> Tensor:
    """Mean over heads and over `maps`, `[tokens, h, w]` at the size of the largest; smaller ones are enlarged.

    Enlarged bilinearly, so that every pixel's attention still sums to 1 over the tokens.

    Args:
        maps: softmaxed, `[heads, queries, tokens]` each, the queries a square.
    """
    side = max(math.isqrt(each.shape[1]) for each in maps)
    total = torch.zeros(maps[0].shape[-1], side, side, device=maps[0].device)
    for each in maps:
        own = math.isqrt(each.shape[1])
        square = each.mean(0).T.unflatten(1, (own, own))
        total += F.interpolate(square[None], size=(side, side), mode="bilinear", align_corners=False)[0]
    return total / len(maps)


def aligned(one: Sequence[int], other: Sequence[int]) -> list[tuple[int | None, int | None]]:
    """Places of equal tokens of two prompts side by side; None beside a token that the other prompt has not."""
    pairs: list[tuple[int | None, int | None]] = []
    for _, i, i_end, j, j_end in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        pairs += zip_longest(range(i, i_end), range(j, j_end))
    return pairs


def _tiles(
    model: DiffusionFamily, prompt: str, picture: Image.Image, maps: Tensor, columns: Sequence[int | None]
) -> list[Tile]:
    """The picture, and a tile for each column: the token, and its share of all attention."""
    tokenizer = model.encoders[0].tokenizer
    words = [token.removesuffix("</w>") for token in tokenizer.convert_ids_to_tokens(model.token_ids(prompt))]
    tiles = [Tile(picture, "picture")]
    for column in columns:
        if column is None:
            tiles.append(Tile(None, ""))
        else:
            heat = maps[column + 1]  # behind the start token
            overlay = heat_overlay(tile(picture), heat.numpy())
            tiles.append(Tile(overlay, f"{words[column]}\n{heat.mean():.1%} of attention"))
    return tiles
