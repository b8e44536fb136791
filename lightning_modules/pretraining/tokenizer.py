"""The tokenizer that all embedded models share."""

from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPTokenizer

from datamodules.sprites.vocabulary import byte_pair_vocabulary, world_words


def build_tokenizer(*, max_length: int) -> CLIPTokenizer:
    """A `CLIPTokenizer` in which every word of the world, and each rare identifier, is one token."""
    vocabulary, merges = byte_pair_vocabulary(world_words(), alphabet=sorted(ByteLevel.alphabet()))
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_length)


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Token ids `[B, model_max_length]`, padded as `StableDiffusionPipeline` pads them."""
    return tokenizer(
        prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
