"""Lightning's progress bar for runs that are counted in steps."""

import lightning.pytorch as L
from lightning.pytorch.callbacks import RichProgressBar


class StepProgressBar(RichProgressBar):
    """`RichProgressBar` that does not say "Epoch 0/-2": a run is one endless epoch."""

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"

    def _update_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Reading a figure waits for the accelerator: only in the steps that are logged anyway.
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.global_step % every == 0:
            super()._update_metrics(trainer, pl_module)
