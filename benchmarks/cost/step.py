"""What a training step costs: this project against the same step written by hand, and APT against the sum of its parts.

Every lane holds a model of its own and takes short blocks of steps in turn, forth and back (A B C, C B A, …), so that
drift of the machine hits all alike; ratios are taken within a round. A block's figure is its mean step, in which the
logging of every 10th step and the progress bar's refreshes have their share.
"""

import argparse
import sys
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch

from benchmarks.cost.handwritten_dreambooth import HandwrittenDreamBooth
from benchmarks.shared.command import ROOT
from benchmarks.shared.lanes import FunctionLane, TrainerLane, draw_bars_nowhere, lines, synchronize, timed

STEP_BOUND, APT_BOUND = 1.05, 1.10


class EncodingMeter:
    """Seconds and rows of the module's `_encode_variants` since it was last read."""

    def __init__(self, module: Any) -> None:
        self.seconds, self.rows, self._encode = 0.0, 0, module._encode_variants
        module._encode_variants = self._timed

    def read(self) -> tuple[float, int]:
        seconds, rows = self.seconds, self.rows
        self.seconds, self.rows = 0.0, 0
        return seconds, rows

    def _timed(self, picture: Any, positions: Any) -> Any:
        synchronize()
        began = perf_counter()
        encoded = self._encode(picture, positions)
        synchronize()
        self.seconds, self.rows = self.seconds + perf_counter() - began, self.rows + len(positions)
        return encoded


def handwritten(lane: TrainerLane, device: str) -> HandwrittenDreamBooth:
    """The yardstick with the settings of `lane`."""
    cfg, lora = lane.cfg, lane.module.adapter.config
    return HandwrittenDreamBooth(
        cfg.model.pretrained,
        lane.datamodule.train_pictures,
        [picture.prompts.instance for picture in lane.datamodule.subject.train],
        lora={"r": lora.r, "lora_alpha": lora.lora_alpha, "target_modules": list(lora.target_modules)},
        lr=cfg.optimizer.lr,
        weight_decay=cfg.optimizer.weight_decay,
        batch_size=cfg.datamodule.batch_size,
        device=device,
    )


@dataclass(frozen=True)
class Bench:
    """All lanes by name, those of them that are runs, and what APT spends on encoding."""

    lanes: dict[str, FunctionLane | TrainerLane]
    plain: TrainerLane
    apt: TrainerLane
    bank: TrainerLane
    meter: EncodingMeter

    @property
    def bank_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for pair in self.bank.module._bank for t in pair)

    def finish(self) -> None:
        for lane in (self.plain, self.apt, self.bank):
            lane.finish()


def set_up(args: argparse.Namespace) -> Bench:
    """Every lane with a model of its own."""
    total = args.warmup + args.steps
    common = [f"model={args.config}", f"model.pretrained={args.model}", f"datamodule.batch_size={args.batch_size}"]
    # Early in a run γ is near 0: with so large a T it is at its bound wherever the student is ahead at all.
    apt_run = [*common, "experiment=apt_dreambooth", "model.indicator_augmentation=true", "model.loss_gap_scale=1e6"]
    plain = TrainerLane([*common, "experiment=dreambooth"], steps=total)
    apt = TrainerLane(apt_run, steps=total)
    bank = TrainerLane([*apt_run, f"module.augmentation.bank={args.bank}"], steps=total)
    meter = EncodingMeter(apt.module)
    hand = handwritten(plain, str(plain.module.device))
    noisy, timesteps, states = hand.draw()[:3]

    @torch.no_grad()
    def forward() -> None:
        hand.unet(noisy, timesteps, encoder_hidden_states=states)

    lanes: dict[str, FunctionLane | TrainerLane] = {
        "hand": FunctionLane(hand.step),
        "plain": plain,
        "forward": FunctionLane(forward, before=hand.unet.disable_adapters, after=hand.unet.enable_adapters),
        "apt": apt,
        "bank": bank,
    }
    return Bench(lanes, plain, apt, bank, meter)


def measure(bench: Bench, *, rounds: int, block: int, warmup: int) -> tuple[dict[str, list[float]], int]:
    """Milliseconds a step of each lane and of what APT encodes, block by block; and how many rows it encoded."""
    encoding: list[float] = []
    rows = 0

    def read_meter() -> None:
        nonlocal rows
        seconds, encoded = bench.meter.read()
        encoding.append(1e3 * seconds / block)
        rows += encoded

    times = timed(bench.lanes, rounds=rounds, block=block, warmup=warmup, warm=bench.meter.read, after_round=read_meter)
    return times | {"encoding": encoding}, rows


def ratios(times: dict[str, list[float]]) -> tuple[list[float], list[float], list[float]]:
    """Round by round: our step over the handwritten one, APT over its parts, the bank over encoding on demand."""
    step = [b / a for a, b in zip(times["hand"], times["plain"], strict=True)]
    parts = zip(times["plain"], times["forward"], times["encoding"], times["apt"], strict=True)
    apt = [whole / (step + frozen + encoding) for step, frozen, encoding, whole in parts]
    return step, apt, [b / a for a, b in zip(times["apt"], times["bank"], strict=True)]


def show(times: dict[str, list[float]], bench: Bench, args: argparse.Namespace) -> bool:
    """Prints the table, and whether the bounds hold."""
    step_ratio, apt_ratio, bank_ratio = ratios(times)
    print(f"{'':<44}{'min':>9}{'median':>9}{'max':>9}")
    print(lines("(a) handwritten DreamBooth LoRA step", times["hand"], "ms"))
    print(lines("(b) the same step of this project", times["plain"], "ms"))
    print(lines("    one no-grad forward over the same rows", times["forward"], "ms"))
    print(lines("    encoding what was augmented, per step", times["encoding"], "ms"))
    print(lines("(c) APT step, encoding on demand", times["apt"], "ms"))
    print(lines(f"(d) APT step, bank of {args.bank} per picture", times["bank"], f"ms, {bench.bank_bytes:,} bytes"))
    print(lines("(b) / (a)", step_ratio, f"median at most {STEP_BOUND}"))
    print(lines("(c) / ((b) + forward + encoding)", apt_ratio, f"median at most {APT_BOUND}"))
    print(lines("(d) / (c)", bank_ratio, ""))
    holds = median(step_ratio) <= STEP_BOUND and median(apt_ratio) <= APT_BOUND
    print("both bounds hold" if holds else "a bound is broken")
    return holds


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "assets/sprites-sd"), help="any Stable Diffusion folder")
    parser.add_argument("--config", default="sprites", help="its group in conf/model (sprites, sd15, sd21)")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60, help="measured steps of every lane")
    parser.add_argument(
        "--block", type=int, default=10, help="steps in a block; a multiple of 10 shares the logging out"
    )
    parser.add_argument("--warmup", type=int, default=20, help="steps of every lane before the measurement")
    parser.add_argument("--bank", type=int, default=16, help="variants of every picture in the augmentation bank")
    parser.add_argument("--no-check", action="store_true", help="exit with 0 even where a bound is broken")
    return parser.parse_args()


def main() -> int:
    args = parse()
    draw_bars_nowhere()
    rounds = max(1, args.steps // args.block)
    bench = set_up(args)
    times, rows = measure(bench, rounds=rounds, block=args.block, warmup=args.warmup)
    bench.finish()
    share = rows / (rounds * args.block * args.batch_size)
    print(
        f"{args.model}, {bench.plain.module.device}, {torch.get_num_threads()} threads, batch {args.batch_size}, "
        f"LoRA rank {bench.plain.cfg.adapter.rank}, {rounds} rounds of {args.block} steps; rows augmented: {share:.0%}"
    )
    return int(not show(times, bench, args) and not args.no_check)


if __name__ == "__main__":
    sys.exit(main())
