"""The similarity of a run's samples to real pictures in the pretrained diffusion model's own features."""

import torch

from datamodules.subject_datamodule import picture_tensor, square_tensor
from evaluation.figures.figure import Compared, Figure
from metrics.image_similarity import image_similarity


def diffusion_similarity(compared: Compared) -> dict[str, Figure]:
    """Mean cosine to the held-out pictures, or to the training pictures where none are held out.

    All features are taken with the pretrained denoiser, or the tuned model would judge itself.
    """
    model, subject = compared.model, compared.subject
    target, others = ("held-out", subject.heldout) if subject.heldout else ("training", subject.train)
    drawn = {
        kind: torch.stack([square_tensor(picture, model.resolution) for picture in each.pictures])
        for kind, each in (("tuned", compared.tuned), ("base", compared.base))
    }
    pictures = drawn | {"reference": picture_tensor(subject.train, model.resolution)}
    features = model.picture_features(picture_tensor(others, model.resolution))
    values = {kind: float(image_similarity(model.picture_features(each), features)) for kind, each in pictures.items()}
    return {
        "similarity/diffusion_features": Figure(
            tuned=values["tuned"],
            base=values["base"],
            reference=values["reference"],
            counts={kind: len(each) for kind, each in pictures.items()},
            description=f"mean cosine to the {target} pictures, {model.features_description}; real: training pictures",
            model=model.pretrained,
            checkpoint=compared.model_checkpoint,
            transform=model.transform,
            template="none: the empty prompt beside every picture",
            pairing=f"every picture with every {target} picture",
            compared_with=len(others),
        )
    }
