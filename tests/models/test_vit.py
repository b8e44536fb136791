"""Which ViTs of timm are read, and how."""

import pytest
import torch
from safetensors.torch import load_file

from models.vit import VisionTransformer
from tests.tiny import save_tiny_vit


def load(folder, **changes):
    settings = {
        "checkpoint": None,
        "resolution": 32,
        "crop_pct": 1.0,
        "gradient_checkpointing": False,
        "compile": False,
    }
    return VisionTransformer(pretrained=str(folder), **settings | changes)


def test_weights_of_another_architecture_are_refused(tiny_vit, tmp_path):
    other = save_tiny_vit(tmp_path / "other", qkv_bias=False)
    with pytest.raises(ValueError, match=r"of another architecture: .*qkv\.bias"):
        load(tiny_vit, checkpoint=str(other / "model.safetensors"))
    assert load(tiny_vit, checkpoint=str(tiny_vit / "model.safetensors")).num_prefix_tokens == 1


def test_models_without_cls_token_are_refused(tmp_path):
    folder = save_tiny_vit(tmp_path / "avg", class_token=False, global_pool="avg")
    with pytest.raises(ValueError, match=r"no \[CLS\] token"):
        load(folder)


def test_rotary_models_are_read_as_they_are(tmp_path):
    folder = save_tiny_vit(tmp_path / "rope", architecture="vit_small_patch16_rope_224")
    weights, found = load_file(folder / "model.safetensors"), load(folder).vit.state_dict()
    assert weights.keys() == found.keys() and all(torch.equal(weights[name], found[name]) for name in weights)
