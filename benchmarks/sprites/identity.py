"""How well identity is told: `python -m benchmarks.sprites.identity [--fit]`, the figures of its model card.

For every subject, the share of pairs in which a picture of it scores higher than one of a distractor, an object of the
same noun in the same scene (area under the ROC curve; 1 is perfect, 0.5 is chance), by kind of distractor; references
are twelve held-out pictures, and none of them is among the pictures scored. Then the same through the autoencoder, as
what a model draws comes out of it; how much the background alone moves identity; and how well the object is found.
`--fit` makes the whitening anew, from objects of the world in any paint; no subject is among them.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import timm
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from benchmarks.shared.command import ROOT
from benchmarks.shared.scores import arrays
from benchmarks.sprites.judge import reconstruct
from datamodules.sprites.distractors import KINDS
from datamodules.sprites.paint import BACKGROUNDS
from datamodules.sprites.subjects import SUBJECTS, sprite_subject
from datamodules.sprites.world import POSITIONS, Scene, draw_sprite, mask, render, repainted_scene
from datamodules.subject import Picture
from metrics.sprites.identity import SIDE, Identity, crop_features, within_class_whitening
from metrics.sprites.object_crop import object_crop, object_masks

FOLDER = ROOT / "assets/sprites-identity"
VIT, LAYERS, SHRINKAGE = "assets/sprites-vit", (3, 4, 5), 3e-4
OBJECTS, SCENES = 400, 4
REFERENCES, SCORED = 12, 28
SEED = 2_000_029

Pictures = Sequence[NDArray[np.uint8]]


def fit() -> Identity:
    """The whitening, by `OBJECTS` objects in `SCENES` scenes each."""
    crops = []
    for index in range(OBJECTS):
        thing = repainted_scene(SEED, index).sprites[0]
        rng = np.random.default_rng([SEED, index])
        for _ in range(SCENES):
            background = str(rng.choice(list(BACKGROUNDS)))
            sprite = draw_sprite(rng, position=str(rng.choice(list(POSITIONS))), noun=thing.noun, paint=thing.paint)
            scene = Scene(background=background, background_rgb=BACKGROUNDS[background], sprites=(sprite,))
            crops.append(object_crop(render(scene), mask(sprite) > 0.5, side=SIDE))
    vit = timm.create_model(f"local-dir:{ROOT / VIT}", pretrained=True, num_classes=0).eval()
    features = crop_features(vit, crops, layers=LAYERS).unflatten(0, (OBJECTS, SCENES))
    return Identity(str(ROOT / VIT), LAYERS, *within_class_whitening(features, shrinkage=SHRINKAGE))


def area_under_curve(positives: Tensor, negatives: Tensor) -> float:
    """Of cosines, which torchmetrics wants in [0, 1]."""
    labels = torch.cat([torch.ones(len(positives)), torch.zeros(len(negatives))]).int()
    return float(binary_auroc((1 + torch.cat([positives, negatives])) / 2, labels))


def on_every_background(name: str) -> list[NDArray[np.uint8]]:
    """One and the same object in the center of each background."""
    spec = SUBJECTS[name]
    sprite = draw_sprite(np.random.default_rng(SEED), position="center", noun=spec.noun, size="large", paint=spec.paint)
    return [render(Scene(background=each, background_rgb=rgb, sprites=(sprite,))) for each, rgb in BACKGROUNDS.items()]


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


def pictures_of(name: str) -> tuple[list[Picture], list[Picture], dict[str, list[NDArray[np.uint8]]]]:
    """References and scored pictures of a subject, and the pictures to score: its own, and each kind of distractor."""
    subject = sprite_subject(
        subject=name, identifier="sks", instance_prompt="a {identifier} {class_word}", num_train=5,
        num_heldout=REFERENCES + SCORED, seed=1, replaces_class_word=False,
    )  # fmt: skip
    references, scored = subject.heldout[:REFERENCES], subject.heldout[REFERENCES:]
    others = subject.distractors[REFERENCES * len(KINDS) :]
    kinds = {kind: arrays(others[number :: len(KINDS)]) for number, kind in enumerate(KINDS)}
    return list(references), list(scored), {"subject": arrays(scored)} | kinds


def show(title: str, cosines: Mapping[str, Tensor], found: float) -> None:
    """A row of the table: how well each kind is told, and how well the object is found."""
    every = torch.cat([cosines[kind] for kind in KINDS])
    print(
        title,
        "  ".join(f"{kind} {area_under_curve(cosines['subject'], cosines[kind]):.3f}" for kind in KINDS),
        f" all {area_under_curve(cosines['subject'], every):.3f}",
        " | cosine",
        "  ".join(f"{kind} {float(values.mean()):.2f}" for kind, values in cosines.items()),
        f" | object found: IoU {found:.2f}",
        flush=True,
    )


def told(name: str, identity: Identity, vae: AutoencoderKL) -> None:
    """Prints how well one subject is told, as rendered and through the autoencoder."""
    references, scored, pictures = pictures_of(name)
    score = partial(identity, references=arrays(references), masks=[each.mask for each in references])
    backgrounds = score(on_every_background(name))
    ways: dict[str, Callable[[Pictures], Pictures]] = {
        "rendered": lambda group: group,
        "reconstructed": lambda group: reconstruct(vae, list(group)),
    }
    for what, through in ways.items():
        shown = {kind: through(group) for kind, group in pictures.items()}
        cosines = {kind: score(group) for kind, group in shown.items()}
        overlaps = [overlap(object_masks(p)[0], each.mask) for p, each in zip(shown["subject"], scored, strict=True)]
        show(f"{name:<16}{what:<14}", cosines, float(np.mean(overlaps)))
    gap = float(cosines["subject"].mean()) - max(float(cosines[kind].mean()) for kind in KINDS)
    print(
        f"{'':<16}background swapped: standard deviation {float(backgrounds.std()):.3f}, largest change "
        f"{float(backgrounds.max() - backgrounds.min()):.3f}; to the nearest kind of distractor {gap:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help=f"make {FOLDER.relative_to(ROOT)} anew")
    if parser.parse_args().fit:
        fit().save_pretrained(FOLDER)
    identity = Identity.from_pretrained(FOLDER)
    vae = AutoencoderKL.from_pretrained(ROOT / "assets/sprites-sd/vae")
    print("area under the curve against each kind of distractor, and mean cosine of the subject and of the kinds")
    for name in SUBJECTS:
        told(name, identity, vae)


if __name__ == "__main__":
    main()
