"""``metrics.csv`` is a function of what was logged, however often the run was stopped."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader

from report.metrics_csv import MetricsCSV, read_metrics


def _step(logger: MetricsCSV, step: int, late: int = 7) -> None:
    """What a made-up run logs: a loss each step, a validation every third, a column that comes late."""
    logger.log_metrics({"loss/a": 1 / (step + 1), "epoch": step // 4}, step)
    logger.save()
    if step % 3 == 2:
        logger.log_metrics({"val/x": step**0.5, "epoch": step // 4}, step)
    if step >= late:
        logger.log_metrics({"gamma,0": float("nan")}, step)


def _run(folder: Path, steps: range, resume_step: int | None = None, late: int = 7) -> bytes:
    logger = MetricsCSV(folder, resume_step)
    for step in steps:
        _step(logger, step, late)
    logger.finalize("success")
    return (folder / "metrics.csv").read_bytes()


def test_calls_of_one_step_share_a_row_and_cells_are_exact(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"b": 0.1, "epoch": 0}, step=0)
    logger.log_metrics({"a": torch.tensor(0.1).item()}, step=0)
    logger.log_metrics({"b": 0.5}, step=3)
    logger.log_metrics({"b": 2}, step=3)
    logger.log_metrics({"epoch": 1}, step=4)
    logger.finalize("success")
    assert (tmp_path / "metrics.csv").read_text() == "step,b,a\n0,0.1,0.10000000149011612\n3,2.0,\n"
    assert read_metrics(tmp_path / "metrics.csv") == {"b": [(0, 0.1), (3, 2.0)], "a": [(0, 0.10000000149011612)]}


def test_a_row_is_on_disk_when_the_next_one_begins(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"a": 1.0}, step=0)
    logger.log_metrics({"a": 2.0}, step=1)
    assert (tmp_path / "metrics.csv").read_text() == "step,a\n0,1.0\n"


@pytest.mark.parametrize("checkpoint", range(0, 13))
@pytest.mark.parametrize("late", [1, 7, 11])
def test_a_resumed_file_equals_that_of_a_run_never_stopped(tmp_path: Path, checkpoint: int, late: int) -> None:
    whole = _run(tmp_path / "whole", range(14), late=late)
    # The first attempt ran two steps beyond its checkpoint, into columns that the second attempt has not seen yet.
    _run(tmp_path / "stopped", range(min(checkpoint + 2, 14)), late=late)
    assert _run(tmp_path / "stopped", range(checkpoint, 14), resume_step=checkpoint, late=late) == whole


def test_resume_cuts_rows_of_the_checkpoint_s_step_and_columns_without_a_value(tmp_path: Path) -> None:
    _run(tmp_path, range(10), late=8)
    MetricsCSV(tmp_path, resume_step=2)
    assert (tmp_path / "metrics.csv").read_text() == "step,loss/a\n0,1.0\n1,0.5\n"


def test_a_torn_last_line_is_not_taken_for_a_row(tmp_path: Path) -> None:
    whole = _run(tmp_path, range(14))
    # A kill in the middle of row "13,…" leaves "1", which reads like a step before the checkpoint's.
    (tmp_path / "metrics.csv").write_bytes(whole[: whole.rindex(b"\n13,") + 2])
    assert [step for step, _ in read_metrics(tmp_path / "metrics.csv")["loss/a"]] == list(range(13))
    assert _run(tmp_path, range(13, 14), resume_step=13) == whole


def test_a_new_run_never_touches_an_existing_file(tmp_path: Path) -> None:
    before = _run(tmp_path, range(3))
    with pytest.raises(FileExistsError, match=r"metrics\.csv exists"):
        MetricsCSV(tmp_path)
    assert (tmp_path / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("metrics", "step", "message"),
    [
        ({"a": 1.0}, None, "step None"),
        ({"a": 1.0}, 4, "last row is of step 5"),
        ({"step": 1.0}, 6, "rename"),
    ],
)
def test_what_has_no_row_is_refused(tmp_path: Path, metrics: dict, step: int | None, message: str) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"a": 1.0}, 5)
    with pytest.raises(ValueError, match=message):
        logger.log_metrics(metrics, step)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "step,a\n1\n", "step,a\n2,1.0\n2,1.0\n", "step,a\n0,x\n"])
def test_a_foreign_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.csv"):
        read_metrics(tmp_path / "metrics.csv")


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    _run_folder = tmp_path / "run"
    logger = MetricsCSV(_run_folder)
    logger.log_metrics({"a": 1.0}, 0)
    logger.save()
    assert not _run_folder.exists()


class _Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.layer(batch).square().mean()
        self.log("loss/square", loss)
        if self.global_step >= 8:
            self.log("late", float(self.global_step))
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/step", float(self.global_step))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def _fit(folder: Path, max_steps: int, resume_step: int | None = None) -> bytes:
    torch.manual_seed(0)
    checkpoint = ModelCheckpoint(folder / "checkpoints", filename="step_{step}", every_n_train_steps=3, save_top_k=-1)
    checkpoint.auto_insert_metric_name = False
    trainer = Trainer(
        accelerator="cpu",
        logger=MetricsCSV(folder, resume_step),
        callbacks=[checkpoint],
        max_steps=max_steps,
        log_every_n_steps=1,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    data = [DataLoader(torch.ones(5, 2)), DataLoader(torch.ones(1, 2))]
    path = None if resume_step is None else folder / f"checkpoints/step_{resume_step}.ckpt"
    trainer.fit(_Model(), *data, ckpt_path=path, weights_only=False)
    return (folder / "metrics.csv").read_bytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("stopped", "checkpoint"), [(7, 6), (11, 9), (6, 3)])
def test_lightning_numbers_rows_and_checkpoints_as_the_cut_assumes(
    tmp_path: Path, stopped: int, checkpoint: int
) -> None:
    whole = _fit(tmp_path / "whole", 14)
    _fit(tmp_path / "stopped", stopped)
    assert _fit(tmp_path / "stopped", 14, resume_step=checkpoint) == whole


def test_a_run_too_short_to_log_leaves_a_header(tmp_path: Path) -> None:
    MetricsCSV(tmp_path).finalize("success")
    assert (tmp_path / "metrics.csv").read_text() == "step\n"
    assert read_metrics(tmp_path / "metrics.csv") == {}
