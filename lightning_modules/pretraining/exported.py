"""`ExportedModule`: the base of the embedded models' own trainings, which end in a folder."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as L
import torch

from lightning_modules.regularized import stepped


class ExportedModule(L.LightningModule, ABC):
    """Trains a model from nothing, and writes it at the end as the published classes load it.

    Args:
        optimizer: partial of a torch optimiser over parameters or groups of them.
        lr_scheduler: partial of a torch scheduler over an optimiser, stepped with every optimiser step.
        export_dir: folder of the model; must not hold one yet.

    Raises:
        FileExistsError: `export_dir` holds a model.
    """

    kind = "pretraining"
    """What a run of this module is, see `RegularizedModule.kind`."""

    exports: ClassVar[str]
    """What lies in `export_dir` afterwards, in words: "the judge"."""

    def __init__(
        self, *, optimizer: Callable[..., torch.optim.Optimizer], lr_scheduler: Callable[..., Any], export_dir: str
    ) -> None:
        super().__init__()
        self.export_dir = Path(export_dir)
        refuse_existing(self.export_dir)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler

    def trained_groups(self) -> Any:
        """What trains: parameters, or groups of them with settings of their own."""
        return self.parameters()

    def configure_optimizers(self) -> Any:
        return stepped(self.optimizer(self.trained_groups()), self.lr_scheduler)

    @abstractmethod
    def export(self) -> None:
        """Writes the trained model to `export_dir`."""

    def on_train_end(self) -> None:
        # Callbacks come first: by now EMAWeightAveraging has put the averaged weights in place.
        self.export()
        self.print(f"{self.exports} lies in {self.export_dir}")


def refuse_existing(export_dir: Path) -> None:
    """Raises:
    FileExistsError: `export_dir` holds a model already; nothing that exists is overwritten.
    """
    if any((export_dir / name).exists() for name in ("config.json", "model_index.json", "open_clip_config.json")):
        raise FileExistsError(
            f"{export_dir} holds a model already: move it away, or set module.export_dir=<new folder>"
        )
