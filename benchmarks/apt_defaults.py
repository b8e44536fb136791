"""What APT leaves open, measured on a model: `python -m benchmarks.apt_defaults [run.py overrides]`.

Trains plain DreamBooth while APT's parts only look on. Prints, at some steps, the gap `EMA[ℓ_ref] − EMA[ℓ_θ]` of each
timestep bin, and each regulariser's gradient norm at weight 1 over the denoising gradient's, averaged over 16 steps.
From the last row comes the T that gives γ = 0.9 at the median bin's gap; from step 100 the weights at which a
regulariser's gradient is a fifth of the denoising gradient.
"""

import argparse
import math
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from benchmarks.shared.lanes import build, compose_run

STEPS, WINDOW, STOPS = 400, 16, (25, 50, 100, 200, 400)
TERMS = ("attention_alignment", "representation_stabilization")
LOOK_ON = [
    "experiment=apt_dreambooth",
    "logger=csv",
    f"trainer.max_steps={STEPS}",
    "+trainer.limit_val_batches=0",
    "regularizer.overfitting_indicator.scale=1",
    "regularizer.overfitting_indicator.weighting=false",
    "regularizer.overfitting_indicator.augmentation=false",
    *(f"regularizer.{term}.weight=1e-12" for term in TERMS),  # kept, without a say
]


class Onlooker(L.Callback):
    """Collects gradient norms before each of the `STOPS`, and the indicator's gaps at them."""

    def __init__(self) -> None:
        self.norms: dict[int, list[dict[str, float]]] = {stop: [] for stop in STOPS}
        self.gaps: dict[int, list[float]] = {}

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        for stop in STOPS:
            if stop - WINDOW <= batch_idx < stop:
                self.norms[stop].append(gradient_norms(module, batch))

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        if trainer.global_step in STOPS:
            gamma = module.regularizers["overfitting_indicator"].gamma
            self.gaps[trainer.global_step] = (-torch.log1p(-gamma)).tolist()

    def ratio(self, stop: int, term: str) -> float:
        """Mean gradient norm of `term` over that of the denoising loss."""
        norms = self.norms[stop]
        return sum(each[term] for each in norms) / sum(each["denoising"] for each in norms)


def gradient_norms(module: Any, batch: Any) -> dict[str, float]:
    """Norm of each term's own gradient over all that trains, at weight 1."""
    step = module.make_step(batch)
    trained = [p for p in module.parameters() if p.requires_grad]

    def norm(loss: Tensor) -> float:
        gradients = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
        return math.sqrt(sum(float(g.square().sum()) for g in gradients if g is not None))

    return {name: norm(module.regularizers[name].loss(step).loss) for name in ("denoising", *TERMS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of run.py: data.subject=square_bolt …")
    overrides = parser.parse_args().overrides
    onlooker = Onlooker()
    _, module, datamodule, trainer = build(compose_run([*LOOK_ON, *overrides]), onlooker)
    trainer.fit(module, datamodule=datamodule)
    for stop in STOPS:
        gaps = " ".join(f"{gap:.4f}" for gap in onlooker.gaps[stop])
        ratios = ", ".join(f"{term} {onlooker.ratio(stop, term):.3g}" for term in TERMS)
        print(f"step {stop:3d}: gap by bin {gaps}; gradient over denoising's: {ratios}")
    median = sorted(onlooker.gaps[STEPS])[len(onlooker.gaps[STEPS]) // 2]
    print(f"proposal: model.loss_gap_scale={math.log(10) / median:.0f}")
    for term in TERMS:
        print(f"proposal: regularizer.{term}.weight={0.2 / onlooker.ratio(100, term):.2g}")


if __name__ == "__main__":
    main()
