"""Lightning's progress bar for runs that are counted in steps."""

from lightning.pytorch.callbacks import RichProgressBar


class StepProgressBar(RichProgressBar):
    """`RichProgressBar` that does not say "Epoch 0/-2": a run is one endless epoch."""

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"
