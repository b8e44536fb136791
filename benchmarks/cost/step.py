"""What a training step costs: this project against the same step written by hand, and APT against the sum of its parts.

Every lane holds a model of its own and takes short blocks of steps in turn, forth and back (A B C, C B A, …), so that
drift of the machine hits all alike; ratios are taken within a round. A block's figure is its mean step, in which the
logging of every 10th step and the progress bar's refreshes have their share.
"""

import argparse
import sys
from statistics import median
from time import perf_counter
from typing import Any

import torch

from benchmarks.cost.handwritten_dreambooth import HandwrittenDreamBooth
from benchmarks.shared.lanes import ROOT, FunctionLane, TrainerLane, draw_bars_nowhere, lines, synchronize

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


def main() -> int:
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
    args = parser.parse_args()

    draw_bars_nowhere()
    rounds, total = max(1, args.steps // args.block), args.warmup + args.steps
    common = [f"model={args.config}", f"model.pretrained={args.model}", f"datamodule.batch_size={args.batch_size}"]
    # Early in a run γ is near 0: with so large a T it is at its bound wherever the student is ahead at all.
    apt_run = [*common, "experiment=apt_dreambooth", "model.indicator_augmentation=true", "model.indicator_scale=1e6"]
    plain = TrainerLane([*common, "experiment=dreambooth"], steps=total)
    apt = TrainerLane(apt_run, steps=total)
    bank = TrainerLane([*apt_run, f"module.augmentation.bank={args.bank}"], steps=total)
    meter = EncodingMeter(apt.module)
    device = str(plain.module.device)
    hand = handwritten(plain, device)
    inputs = hand.draw()[:3]

    @torch.no_grad()
    def forward() -> None:
        hand.unet(inputs[0], inputs[1], encoder_hidden_states=inputs[2])

    lanes: dict[str, FunctionLane | TrainerLane] = {
        "hand": FunctionLane(hand.step),
        "plain": plain,
        "forward": FunctionLane(forward, before=hand.unet.disable_adapters, after=hand.unet.enable_adapters),
        "apt": apt,
        "bank": bank,
    }
    for lane in lanes.values():
        lane.block(args.warmup)
    meter.read()
    times: dict[str, list[float]] = {name: [] for name in [*lanes, "encoding"]}
    rows = 0
    for number in range(rounds):
        for name in list(lanes)[:: -1 if number % 2 else 1]:
            times[name].append(1e3 * lanes[name].block(args.block))
        seconds, encoded = meter.read()
        times["encoding"].append(1e3 * seconds / args.block)
        rows += encoded
    for lane in (plain, apt, bank):
        lane.finish()

    share = rows / (rounds * args.block * args.batch_size)
    step_ratio = [b / a for a, b in zip(times["hand"], times["plain"], strict=True)]
    parts = zip(times["plain"], times["forward"], times["encoding"], times["apt"], strict=True)
    apt_ratio = [whole / (step + frozen + encoding) for step, frozen, encoding, whole in parts]
    bank_ratio = [b / a for a, b in zip(times["apt"], times["bank"], strict=True)]
    bank_bytes = sum(t.numel() * t.element_size() for pair in bank.module._bank for t in pair)
    print(f"{args.model}, {device}, {torch.get_num_threads()} threads, batch {args.batch_size}, LoRA rank "
          f"{plain.cfg.adapter.rank}, {rounds} rounds of {args.block} steps; rows augmented: {share:.0%}")  # fmt: skip
    print(f"{'':<44}{'min':>9}{'median':>9}{'max':>9}")
    print(lines("(a) handwritten DreamBooth LoRA step", times["hand"], "ms"))
    print(lines("(b) the same step of this project", times["plain"], "ms"))
    print(lines("    one no-grad forward over the same rows", times["forward"], "ms"))
    print(lines("    encoding what was augmented, per step", times["encoding"], "ms"))
    print(lines("(c) APT step, encoding on demand", times["apt"], "ms"))
    print(lines(f"(d) APT step, bank of {args.bank} per picture", times["bank"], f"ms, {bank_bytes:,} bytes"))
    print(lines("(b) / (a)", step_ratio, f"median at most {STEP_BOUND}"))
    print(lines("(c) / ((b) + forward + encoding)", apt_ratio, f"median at most {APT_BOUND}"))
    print(lines("(d) / (c)", bank_ratio, ""))
    broken = median(step_ratio) > STEP_BOUND or median(apt_ratio) > APT_BOUND
    print("a bound is broken" if broken else "both bounds hold")
    return int(broken and not args.no_check)


if __name__ == "__main__":
    sys.exit(main())
