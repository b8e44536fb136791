"""What GTA costs: `python benchmarks/gta_step_cost.py [--steps 100]`.

Side by side, in one process: a step of `experiment=gta_vit` over a step of `experiment=finetune_vit` plus one no-grad
forward of the source, at most 1.05. Then, each in a process of its own, the peak memory of a ViT-Small's step at 224 px
with the [CLS] rows alone (`rows=cls`) and with all rows (`rows=all`). The exit code is 1 where the bound is broken.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from statistics import median

import timm
import torch
from lanes import FunctionLane, TrainerLane, build, compose_run, draw_bars_nowhere, lines
from timm.models import save_for_hf

BOUND = 1.05


def peak_mib(rows: str, pretrained: str) -> float:
    """Peak resident memory of two steps, in this process."""
    overrides = [
        "experiment=gta_vit", f"model.pretrained={pretrained}", "model.resolution=224", "trainer.max_steps=2",
        "datamodule.batch_size=16", f"regularizer.spatial_attention_transfer.rows={rows}", "logger=csv",
        "data.num_train=1", "data.num_test=1", "callbacks={}",
    ]  # fmt: skip
    _, module, datamodule, trainer = build(compose_run(overrides))
    trainer.fit(module, datamodule=datamodule)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory() -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(timm.create_model("vit_small_patch16_224", num_classes=0), folder, safe_serialization=True)
        for rows in ("cls", "all"):
            command = [sys.executable, __file__, "--peak", rows, folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"peak memory, ViT-Small, 224 px, batch 16, rows={rows}: {done.stdout.split()[-1]} MiB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="measured steps of every lane")
    parser.add_argument("--block", type=int, default=10, help="steps in a block")
    parser.add_argument("--warmup", type=int, default=10, help="steps of every lane before the measurement")
    parser.add_argument("--peak", nargs=2, metavar=("ROWS", "FOLDER"), help="print the peak memory of one variant")
    args = parser.parse_args()
    if args.peak:
        print(f"{peak_mib(*args.peak):.0f}")
        return 0

    draw_bars_nowhere()
    rounds, total = max(1, args.steps // args.block), args.warmup + args.steps
    plain = TrainerLane(["experiment=finetune_vit"], steps=total)
    gta = TrainerLane(["experiment=gta_vit"], steps=total)
    batch = torch.randn(plain.cfg.datamodule.batch_size, 3, plain.cfg.model.resolution, plain.cfg.model.resolution)
    batch = batch.to(gta.module.device)

    @torch.no_grad()
    def forward() -> None:
        gta.module.source.forward_features(batch)

    lanes = {"plain": plain, "forward": FunctionLane(forward), "gta": gta}
    for lane in lanes.values():
        lane.block(args.warmup)
    times: dict[str, list[float]] = {name: [] for name in lanes}
    for number in range(rounds):
        for name in list(lanes)[:: -1 if number % 2 else 1]:
            times[name].append(1e3 * lanes[name].block(args.block))
    plain.finish()
    gta.finish()
    ratio = [c / (a + b) for a, b, c in zip(times["plain"], times["forward"], times["gta"], strict=True)]
    print(f"{plain.cfg.model.pretrained}, {gta.module.device}, {torch.get_num_threads()} threads, "
          f"batch {plain.cfg.datamodule.batch_size}, {rounds} rounds of {args.block} steps")  # fmt: skip
    print(f"{'':<44}{'min':>9}{'median':>9}{'max':>9}")
    print(lines("(a) fine-tuning step", times["plain"], "ms"))
    print(lines("(b) one no-grad forward of the source", times["forward"], "ms"))
    print(lines("(c) GTA step", times["gta"], "ms"))
    print(lines("(c) / ((a) + (b))", ratio, f"median at most {BOUND}"))
    memory()
    return int(median(ratio) > BOUND)


if __name__ == "__main__":
    sys.exit(main())
