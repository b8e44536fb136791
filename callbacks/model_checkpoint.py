"""Checkpoints at every so many steps, and `last.ckpt` at the end of a run, or where a signal stops it."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

import lightning.pytorch as L
from lightning.pytorch import callbacks

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ModelCheckpoint(callbacks.ModelCheckpoint):
    """Lightning's, which writes `last.ckpt` at a last step that is no multiple of `every_n_train_steps` too.

    On SIGINT or SIGTERM the step that is at work is finished first, so that the run that goes on from `last.ckpt` is
    the run that never stopped, bit for bit; a second signal ends the run at once. Lightning writes checkpoints to a
    temporary file and renames them.
    """

    _signal: signal.Signals | None = None
    _stops = False
    _before: dict[signal.Signals, Any]
    _step: int

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._signal, self._stops, self._before = None, False, {}
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._before = {each: signal.signal(each, self._note) for each in _SIGNALS}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number)
        print(f"\n{self._signal.name}: the run ends after this step; once more, and it ends at once", file=sys.stderr)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def _let_go(self) -> None:
        for each, handler in getattr(self, "_before", {}).items():  # none, where it ended before the first step
            signal.signal(each, handler)
        self._before = {}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Raises:
        SystemExit: a signal stopped the run, whose last step is in `last.ckpt` and in the loggers by now.
        """
        if self._stops:
            self._stop(trainer)
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == self._step:  # gradients accumulate, and are in no checkpoint
            return
        # Several processes agree in logged steps only, where they wait for each other anyway.
        if trainer.world_size == 1 or trainer.global_step % max(1, trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            self._stops = trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)
        ends = self._stops or trainer.should_stop or trainer.global_step == trainer.max_steps
        if ends and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises:
        SystemExit: a signal came in the very last step.
        """
        super().on_train_end(trainer, pl_module)
        if self._stops:
            self._stop(trainer)
        self._let_go()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self._let_go()

    def _stop(self, trainer: L.Trainer) -> None:
        if not trainer.is_global_zero:
            raise SystemExit(1)
        name = self._signal.name if self._signal else "a signal to another process"
        raise SystemExit(
            f"stopped by {name} after step {trainer.global_step}: the same command goes on with "
            f"\"ckpt_path='{self.last_model_path}'\""
        )
