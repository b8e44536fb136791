"""Backbones: the same embeddings as their libraries give, one pass for all, and refusals before anything is loaded."""

import numpy as np
import open_clip
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision import transforms

from checks import backbones as module
from checks.backbones import HUB, backbone_source, fetch
from evaluation.figures.pictures import check_metrics
from metrics.backbone import Backbone, dreambooth_transform
from metrics.checkpoint_hash import checkpoint_hash
from metrics.fid import FID
from metrics.kid import KID
from metrics.text_similarity import TextSimilarity
from tests.picture_metrics import VIT, embeddings, heldout, subject

CPU = torch.device("cpu")


def photo(width: int = 300, height: int = 420) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def test_the_transform_is_dreambooth_s():
    """The one of DINO's and DreamBooth's own code, in torchvision's first interface."""
    reference = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    torch.testing.assert_close(dreambooth_transform()(photo()), reference(photo()))


def test_a_backbone_by_name_takes_local_weights(tmp_path):
    torch.manual_seed(0)
    vit = timm.create_model("vit_small_patch16_224.dino", num_classes=0).eval()
    save_file(vit.state_dict(), tmp_path / "dino.safetensors")
    backbone = Backbone(backbone="dino_vits16", weights=str(tmp_path / "dino.safetensors"), device=CPU)
    with torch.no_grad():
        cls = vit.forward_features(dreambooth_transform()(photo())[None])[:, 0]
    torch.testing.assert_close(backbone.embed([photo()], batch_size=4), cls)
    assert (backbone.name, backbone.reads) == ("dino_vits16", False)
    assert backbone.transform.startswith("Resize(size=[256], interpolation=InterpolationMode.BICUBIC")
    assert backbone.checkpoint == checkpoint_hash(tmp_path / "dino.safetensors")


def test_a_folder_of_open_clip_gives_open_clip_s_own_cosines(tiny_clip):
    folder = tiny_clip
    backbone = Backbone(backbone=str(folder), weights=None, device=CPU)
    prompts, pictures = ["a red heart", "a small dotted white moon"], [photo(), photo(64, 64)]
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(prompts)
    with torch.no_grad():
        image, text, _ = model.eval()(torch.stack([preprocess(picture) for picture in pictures]), tokens)
    torch.testing.assert_close(F.normalize(backbone.embed(pictures, batch_size=1), dim=1), image)
    torch.testing.assert_close(F.normalize(backbone.embed_prompts(prompts, batch_size=1), dim=1), text)
    assert backbone.reads and " at 0x" not in backbone.transform


def test_a_picture_goes_through_a_backbone_once(monkeypatch):
    space, pictures, seen = embeddings(), heldout(subject()), []
    embed = Backbone.embed
    monkeypatch.setattr(Backbone, "embed", lambda self, p, **kwargs: (seen.extend(p), embed(self, p, **kwargs))[1])
    first = space.pictures(VIT, None, pictures[:2])
    both = space.pictures(VIT, None, [*pictures[::-1], pictures[0]])
    assert len(seen) == len(pictures)
    torch.testing.assert_close(both[[-1, -3]], first)


def test_the_hash_is_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert checkpoint_hash(tmp_path / "x") == "ba7816bf8f01"  # FIPS 180-2, appendix B.1


@pytest.mark.parametrize("name", HUB)
def test_what_is_on_the_hub_is_known_to_its_library(name):
    source = HUB[name]
    if source.library == "timm":
        assert timm.get_pretrained_cfg(source.model).hf_hub_id == source.repository
    else:
        assert open_clip.get_pretrained_cfg(source.model, "openai")["hf_hub"] == f"{source.repository}/"
        assert open_clip.get_model_config(source.model)["quick_gelu"]


def test_weights_that_cannot_be_had_are_told_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(module.huggingface_hub, "try_to_load_from_cache", lambda *args: None)
    source = backbone_source("dino_vits16", None)  # the hub may be asked

    def unreachable(*args):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(module.huggingface_hub, "hf_hub_download", unreachable)
    mend = r"backbone=dino_vits16 .*hf download timm/vit_small_patch16_224.dino model.safetensors"
    with pytest.raises(FileNotFoundError, match=mend):
        fetch(source)
    monkeypatch.setattr(module.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=mend):
        backbone_source("dino_vits16", None)
    monkeypatch.setattr(module.huggingface_hub, "try_to_load_from_cache", lambda *args: "/cached")
    assert backbone_source("dino_vits16", None) is source


def test_what_is_no_backbone_is_refused(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "x.pth").touch()
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    for backbone, weights, error, match in (
        ("dino_vits8", None, FileNotFoundError, "neither a folder nor one of dino_vits16"),
        (str(tmp_path), None, FileNotFoundError, "lacks model.safetensors"),
        (str(tmp_path.parent), None, ValueError, "no model of timm or open_clip"),
        (VIT, "x.safetensors", ValueError, "would be ignored"),
        ("clip_vit_b32", "nowhere.safetensors", FileNotFoundError, "no such file, for backbone=clip_vit_b32"),
        ("clip_vit_b32", str(tmp_path / "x.pth"), ValueError, r"a \.safetensors file is needed"),
        ("inception_v3", None, ValueError, "pip install torch-fidelity"),
    ):
        with pytest.raises(error, match=match):
            backbone_source(backbone, weights)
    with pytest.raises(ValueError, match="reads no prompts"):
        TextSimilarity(backbone=VIT, weights=None).check(num_pictures=1, images_per_prompt=1)
    with pytest.raises(ValueError, match="reads no prompts"):
        Backbone(backbone=VIT, weights=None, device=CPU).embed_prompts(["a heart"], batch_size=1)


def test_too_few_pictures_for_a_distribution_are_refused(tmp_path):
    for number in range(3):
        photo(8, 8).save(tmp_path / f"{number}.png")
    fid = FID(backbone=VIT, weights=None, real=str(tmp_path), num_features=2)
    with pytest.raises(ValueError, match=r"fid by .* needs 3 pictures, and 2 are drawn"):
        fid.check(num_pictures=2, images_per_prompt=1)
    with pytest.raises(ValueError, match=r"needs 97 pictures, and 3 lie in real="):
        FID(backbone=VIT, weights=None, real=str(tmp_path), num_features=96).check(num_pictures=99, images_per_prompt=1)


def test_a_distribution_s_broken_picture_is_refused_by_its_own_key(tmp_path):
    photo(8, 8).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:40])
    fid = FID(backbone=VIT, weights=None, real=str(tmp_path), num_features=2)
    with pytest.raises(ValueError, match=r"1\.png, of real=.*, cannot be read"):
        fid.check(num_pictures=9, images_per_prompt=1)
    nowhere = FID(backbone=VIT, weights=None, real=str(tmp_path / "nowhere"), num_features=2)
    with pytest.raises(FileNotFoundError, match=r"set evaluation\.metrics\.fid\.real to the folder"):
        nowhere.check(num_pictures=9, images_per_prompt=1)


def kid_of(folder, *, subset_size, num_features):
    return KID(
        backbone=VIT, weights=None, real=str(folder), num_features=num_features, subset_size=subset_size, seed=0
    )  # fmt: skip


def test_kid_is_refused_below_its_subset_s_size(tmp_path):
    for number in range(3):
        photo(8, 8).save(tmp_path / f"{number}.png")
    num_features = Backbone(backbone=VIT, weights=None, device=CPU).num_features
    kid_of(tmp_path, subset_size=3, num_features=num_features).check(num_pictures=3, images_per_prompt=1)
    with pytest.raises(ValueError, match=r"kid by .* needs 3 pictures, and 2 are drawn"):
        kid_of(tmp_path, subset_size=3, num_features=num_features).check(num_pictures=2, images_per_prompt=1)
    with pytest.raises(ValueError, match=r"kid by .* needs 4 pictures, and 3 lie in real="):
        kid_of(tmp_path, subset_size=4, num_features=num_features).check(num_pictures=4, images_per_prompt=1)


def test_features_that_the_backbone_does_not_have_are_refused(tmp_path):
    for number in range(3):
        photo(8, 8).save(tmp_path / f"{number}.png")
    num_features = Backbone(backbone=VIT, weights=None, device=CPU).num_features
    wrong = FID(backbone=VIT, weights=None, real=str(tmp_path), num_features=2)
    with pytest.raises(
        ValueError, match=f"evaluation.metrics.fid: num_features=2 of fid: .* num_features={num_features}"
    ):
        check_metrics({"fid": wrong}, num_prompts=3, images_per_prompt=1)
