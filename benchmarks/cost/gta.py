"""What GTA costs: `python -m benchmarks.cost.gta [--steps 300]`.

Side by side, in one process: a step of `experiment=gta_vit` over a step of `experiment=finetune_vit` plus one no-grad
forward of the source, at most 1.05; for the embedded ViT, then for a ViT-Small at 224 px. Before it, each in a process
of its own, the peak memory of the ViT-Small's step with the [CLS] rows alone (`rows=cls`) and with all rows
(`rows=all`). The exit code is 1 where the bound is broken.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from statistics import median

import timm
import torch
from timm.models import save_for_hf

from benchmarks.shared.command import ROOT
from benchmarks.shared.lanes import FunctionLane, TrainerLane, build, compose_run, draw_bars_nowhere, lines, timed

BOUND = 1.05


def small(folder: str) -> list[str]:
    """Overrides that take the ViT-Small in `folder`; few pictures, of which only the size matters."""
    return [f"model.pretrained={folder}", "model.resolution=224", "data.num_train=1", "data.num_test=1"]


def peak_mib(rows: str, folder: str) -> float:
    """Peak resident memory of two steps, in this process."""
    overrides = [
        "experiment=gta_vit", *small(folder), "trainer.max_steps=2", "logger=csv", "callbacks={}",
        f"regularizer.spatial_attention_transfer.rows={rows}",
    ]  # fmt: skip
    _, module, datamodule, trainer = build(compose_run(overrides))
    trainer.fit(module, datamodule=datamodule)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(folder: str) -> None:
    for rows in ("cls", "all"):
        command = [sys.executable, "-m", __spec__.name, "--peak", rows, folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        print(f"peak memory, ViT-Small, 224 px, rows={rows}: {done.stdout.split()[-1]} MiB")


def time_steps(name: str, overrides: list[str], *, rounds: int, block: int, warmup: int) -> float:
    """Prints the table of one model, and returns the median of (c) / ((a) + (b)) over rounds."""
    total = warmup + rounds * block
    plain = TrainerLane(["experiment=finetune_vit", *overrides], steps=total)
    gta = TrainerLane(["experiment=gta_vit", *overrides], steps=total)
    size, resolution = plain.cfg.datamodule.batch_size, plain.cfg.model.resolution
    batch = torch.randn(size, 3, resolution, resolution).to(gta.module.device)

    @torch.no_grad()
    def forward() -> None:
        gta.module.source.forward_features(batch)

    lanes = {"plain": plain, "forward": FunctionLane(forward), "gta": gta}
    times = timed(lanes, rounds=rounds, block=block, warmup=warmup)
    plain.finish()
    gta.finish()
    ratio = [c / (a + b) for a, b, c in zip(times["plain"], times["forward"], times["gta"], strict=True)]
    print(f"{name}, {gta.module.device}, {torch.get_num_threads()} threads, batch {size}, {rounds} rounds of {block}")
    print(f"{'':<44}{'min':>9}{'median':>9}{'max':>9}")
    print(lines("(a) fine-tuning step", times["plain"], "ms"))
    print(lines("(b) one no-grad forward of the source", times["forward"], "ms"))
    print(lines("(c) GTA step", times["gta"], "ms"))
    print(lines("(c) / ((a) + (b))", ratio, f"median at most {BOUND}"), flush=True)
    return median(ratio)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="measured steps of every lane, a tenth for ViT-Small")
    parser.add_argument("--block", type=int, default=2, help="steps in a block")
    parser.add_argument("--peak", nargs=2, metavar=("ROWS", "FOLDER"), help="print the peak memory of one variant")
    args = parser.parse_args()
    if args.peak:
        print(f"{peak_mib(*args.peak):.0f}")
        return 0

    draw_bars_nowhere()
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(timm.create_model("vit_small_patch16_224", num_classes=0), folder, safe_serialization=True)
        memory(folder)  # first: on Linux a process starts with its parent's peak
        ratios = [
            time_steps("assets/sprites-vit", [], rounds=max(1, args.steps // args.block), block=args.block, warmup=10),
            time_steps("ViT-Small, 224 px", small(folder), rounds=max(1, args.steps // 10), block=1, warmup=1),
        ]
    return int(max(ratios) > BOUND)


if __name__ == "__main__":
    sys.exit(main())
