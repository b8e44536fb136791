"""Where the embedded ViT looks: `python -m benchmarks.sprites.vit [--model assets/sprites-vit]`, of its model card.

Prints the Jaccard index of every block's [CLS] attention with the object's mask over fresh cluttered pictures, beside
random attention and a centred square of the objects' mean area. The objects are those of the target task, which
pretraining never saw.
"""

import argparse

import numpy as np
import timm
import torch

from benchmarks.shared.command import ROOT
from datamodules.sprites.cluttered import cluttered_picture
from datamodules.sprites.cluttered_objects import CLASSES, draw_member
from datamodules.sprites.pretraining import to_pixel_values
from evaluation.classification import cls_attention_maps
from metrics.localization import AttentionJaccard
from models.attention import ClsAttentionCapture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(ROOT / "assets/sprites-vit"))
    parser.add_argument("--count", type=int, default=512, help="pictures")
    parser.add_argument("--mass", type=float, default=0.6, help="share of the attention that counts as the object")
    args = parser.parse_args()
    vit = timm.create_model(f"local-dir:{args.model}", pretrained=True).eval()
    pictures = []
    for index in range(args.count):
        rng = np.random.default_rng([1, index, 41])
        pictures.append(cluttered_picture(rng, draw_member(rng, index % len(CLASSES))))
    pixel_values = to_pixel_values(np.stack([each.pixels for each in pictures]))
    masks = torch.from_numpy(np.stack([each.mask for each in pictures]))
    share = masks.float().mean()
    print(f"{args.count} pictures, patches with {args.mass:.0%} of the attention, objects cover {share:.1%}")
    for number in range(len(vit.blocks)):
        capture, jaccard = ClsAttentionCapture(vit, [f"blocks.{number}.attn"]), AttentionJaccard(mass=args.mass)
        for pixels, mask in zip(pixel_values.split(64), masks.split(64), strict=True):
            jaccard.update(cls_attention_maps(vit, pixels, capture)[1], mask)
        print(
            f"block {number}: " + ", ".join(f"{name} {float(value):.3f}" for name, value in jaccard.compute().items())
        )


if __name__ == "__main__":
    main()
