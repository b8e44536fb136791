"""Student beside frozen model on the same noisy latents, at every timestep bin: held-out and training pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from callbacks.regularizers.denoising import denoising_loss
from callbacks.regularizers.overfitting_indicator import overfitting_indicator
from datamodules import draws
from datamodules.draws import DrawStream
from datamodules.subject import Picture
from models.family import Condition, DiffusionFamily
from models.noise_process import prediction_difference

SETS = ("heldout", "train")


@dataclass(frozen=True, slots=True)
class ValidationRows:
    """What both models are asked, `B` rows: `latents`, `noise` `[B, C, h, w]`, `t` `[B]`, and the prompts."""

    latents: Tensor
    noise: Tensor
    t: Tensor
    student_condition: Condition
    reference_condition: Condition


@dataclass(frozen=True, slots=True)
class ValidatedRows:
    """What both models were asked in a validation, and what they predicted, `[B, C, h, w]` each but `t` `[B]`."""

    noisy: Tensor
    t: Tensor
    student: Tensor
    reference: Tensor


class PairedValidation:
    """Sums over one validation: the two models' denoising losses by bin, and the distance of their predictions.

    A picture's noise is the same in every validation, its latent is the posterior's mean, a bin's time its middle.

    Args:
        model: with its encoders on the device.
        heldout, train: pictures; a row of a batch is a number into `(*heldout, *train)`.
        moments: of the VAE's posterior, `[pictures, 2 C, h, w]`.
        num_bins: equal bins of `t`.
        seed: of the noise.
        send: brings a tensor from the CPU to the device.
    """

    def __init__(
        self,
        model: DiffusionFamily,
        heldout: Sequence[Picture],
        train: Sequence[Picture],
        *,
        moments: Tensor,
        num_bins: int,
        seed: int,
        send: Callable[[Tensor], Tensor],
    ) -> None:
        self._model, self._moments, self._num_bins, self._seed, self._send = model, moments, num_bins, seed, send
        self._sizes = (len(heldout), len(train))
        pictures = (*heldout, *train)
        self._prompts = [picture.prompts.instance for picture in pictures]
        self._reference_conditions = model.encode_prompts([picture.prompts.prior for picture in pictures])
        self.encode_students()

    def encode_students(self) -> None:
        """Encodes the student's prompts as they are encoded now, for a token in it may have moved."""
        self._student_conditions = self._model.encode_prompts(self._prompts)

    def begin(self) -> None:
        """Forgets the last validation."""
        # Of each set and bin: the student's loss, the frozen model's, the distance of their predictions; how many.
        self._sums = torch.zeros(len(SETS) * self._num_bins, 4, device=self._moments.device)

    def rows(self, index: Tensor, bins: Tensor) -> ValidationRows:
        """What is asked of pictures `index` `[B]` at `bins` `[B]`, both on the CPU."""
        rows = self._send(index)
        moments = self._moments[rows]
        latents = self._model.latents(moments, torch.zeros_like(moments.chunk(2, dim=1)[0]))
        positions = index * self._num_bins + bins
        noise = draws.normal(self._seed, DrawStream.VALIDATION_NOISE, positions, tuple(latents.shape[1:]))
        return ValidationRows(
            latents=latents,
            noise=self._send(noise),
            t=self._send(self._times(bins)),
            student_condition=self._student_conditions[rows],
            reference_condition=self._reference_conditions[rows],
        )

    def add(self, index: Tensor, bins: Tensor, *, student: Tensor, reference: Tensor, target: Tensor) -> None:
        """Adds two predictions `[B, C, h, w]` of what `rows` asked; nothing is read back."""
        scale = self._send(self._model.noise_process.noise_scale(self._times(bins)))
        difference = prediction_difference(student, reference, scale)
        losses = [denoising_loss(each, target) for each in (student, reference)]
        columns = [*losses, difference, torch.ones_like(difference)]
        place = (index >= self._sizes[0]).long() * self._num_bins + bins
        self._sums.index_add_(0, self._send(place), torch.stack(columns, dim=1))

    def metrics(self) -> dict[str, float]:
        """`ℓ_θ / ℓ_ref` of each bin, `<set>/relative_loss/bin_NN`, and `<set>/prediction_difference`.

        Of sets and bins that were not validated nothing. Below a ratio of 1 the student knows the pictures better than
        the prior does. Of the training pictures also γ, `train/gamma/bin_NN`, of this validation's mean losses: every
        run has it, with or without an `OverfittingIndicator`, whose moving averages are of the training's own rows.
        """
        metrics = {}
        for name, sums in zip(SETS, self._sums.view(len(SETS), self._num_bins, 4).cpu(), strict=True):
            losses = {number: sums[number, :2] for number in sums[:, 3].nonzero().flatten().tolist()}
            for number, (student, reference) in losses.items():
                metrics[f"{name}/relative_loss/bin_{number:02d}"] = float(student / reference)
                if name == "train":
                    means = losses[number] / sums[number, 3]
                    gamma = overfitting_indicator(*means, scale=self._model.loss_gap_scale)
                    metrics[f"train/gamma/bin_{number:02d}"] = float(gamma)
            if losses:
                metrics[f"{name}/prediction_difference"] = float(sums[:, 2].sum() / sums[:, 3].sum())
        return metrics

    def _times(self, bins: Tensor) -> Tensor:
        return (bins + 0.5) / self._num_bins
