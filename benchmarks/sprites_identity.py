"""How well identity is told: `python benchmarks/sprites_identity.py [--fit]`, the figures of its model card.

The share of pairs in which a picture of the subject scores higher than another one (area under the ROC curve, 1 is
perfect, 0.5 is chance), for every subject: against objects of the same noun under the same prompts, and against the
other subjects. References are the five training pictures. `--fit` makes the whitening anew, from objects of the world
in any paint; no subject is among them.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import timm
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from datamodules.sprites.attributes import asked
from datamodules.sprites.paint import BACKGROUNDS
from datamodules.sprites.painter import scene_as_asked
from datamodules.sprites.subjects import SUBJECTS, sprite_subject
from datamodules.sprites.world import POSITIONS, Scene, draw_sprite, render, repainted_scene
from metrics.identity import Identity, cls_features, within_class_whitening

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "assets/sprites-identity"
VIT, LAYERS, SHRINKAGE = "assets/sprites-vit", (3, 4, 5), 3e-4
OBJECTS, SCENES = 2000, 4
SEED = 2_000_029

Picture = NDArray[np.uint8]


def fit() -> Identity:
    """The whitening, by `OBJECTS` objects in `SCENES` scenes each."""
    pictures = []
    for index in range(OBJECTS):
        thing = repainted_scene(SEED, index).sprites[0]
        rng = np.random.default_rng([SEED, index])
        for _ in range(SCENES):
            background = str(rng.choice(list(BACKGROUNDS)))
            sprite = draw_sprite(rng, position=str(rng.choice(list(POSITIONS))), noun=thing.noun, paint=thing.paint)
            scene = Scene(background=background, background_rgb=BACKGROUNDS[background], sprites=(sprite,))
            pictures.append(render(scene))
    vit = timm.create_model(f"local-dir:{ROOT / VIT}", pretrained=True, num_classes=0).eval()
    features = cls_features(vit, pictures, layers=LAYERS).unflatten(0, (OBJECTS, SCENES))
    return Identity(str(ROOT / VIT), LAYERS, *within_class_whitening(features, shrinkage=SHRINKAGE))


def area_under_curve(positives: Tensor, negatives: Tensor) -> float:
    higher = (positives[:, None] > negatives[None]).double() + 0.5 * (positives[:, None] == negatives[None])
    return float(higher.mean())


def pictures_of(name: str) -> tuple[list[Picture], list[Picture], list[Picture], list[Picture]]:
    """Training pictures, held-out ones, others of the noun under the same prompts, and other subjects."""
    subject = sprite_subject(
        subject=name, identifier="sks", instance_prompt="a {identifier} {class_word}", num_train=5, num_heldout=40,
        seed=1, judge=None, identity=None, replaces_class_word=False,
    )  # fmt: skip
    rng = np.random.default_rng([SEED, list(SUBJECTS).index(name)])
    prompts = [picture.prompts.prior for picture in subject.heldout]
    same_noun = [render(scene_as_asked(asked(prompt), rng)) for prompt in prompts for _ in range(2)]
    others = [
        render(scene_as_asked(asked(prompt.replace(SUBJECTS[name].noun, other.noun)), rng, paint=other.paint))
        for prompt in prompts[:15]
        for key, other in SUBJECTS.items()
        if key != name
    ]
    train, heldout = ([np.asarray(each.image) for each in group] for group in (subject.train, subject.heldout))
    return train, heldout, same_noun, others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help=f"make {FOLDER.relative_to(ROOT)} anew")
    if parser.parse_args().fit:
        fit().save_pretrained(FOLDER)
    identity = Identity.from_pretrained(FOLDER)
    print(f"{'subject':<18}{'same noun':>10}{'other subjects':>16}{'mean cosine: subject':>22}{'same noun':>11}")
    for name in SUBJECTS:
        train, *groups = pictures_of(name)
        heldout, same_noun, others = (identity(group, train) for group in groups)
        print(
            f"{name:<18}{area_under_curve(heldout, same_noun):>10.3f}{area_under_curve(heldout, others):>16.3f}"
            f"{heldout.mean():>22.3f}{same_noun.mean():>11.3f}"
        )


if __name__ == "__main__":
    main()
