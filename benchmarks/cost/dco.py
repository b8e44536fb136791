"""What DCO costs: `python -m benchmarks.cost.dco [--steps 100]`.

Side by side, in one process: a step of `experiment=dco_dreambooth` over a step of `experiment=dreambooth` plus one
no-grad forward of the UNet, at most 1.10; then a denoising step under each guidance: parallel-rescaled over plain
consistency guidance, at most 1.03, and over classifier-free guidance, at most 1.6. The exit code is 1 where a bound is
broken.
"""

import argparse
import sys
from contextlib import ExitStack
from statistics import median
from types import SimpleNamespace

import torch
from hydra.utils import instantiate
from peft import LoraConfig

from benchmarks.shared.lanes import ROOT, FunctionLane, TrainerLane, compose_run, draw_bars_nowhere, lines, timed
from sampling.guidance import (
    REFERENCE_CONDITIONAL,
    REFERENCE_UNCONDITIONAL,
    STUDENT_CONDITIONAL,
    STUDENT_UNCONDITIONAL,
)
from sampling.guided_denoiser import GuidedUNet

STEP_BOUND, RESCALED_BOUND, CFG_BOUND = 1.10, 1.03, 1.6


def training(rounds: int, block: int) -> float:
    """Prints what a training step costs, and returns the ratio that is bounded."""
    steps = (rounds + 1) * block
    plain = TrainerLane(["experiment=dreambooth"], steps=steps)
    dco = TrainerLane(["experiment=dco_dreambooth"], steps=steps)
    module, size = dco.module, dco.cfg.datamodule.batch_size
    noisy = torch.randn(size, *module._moments.shape[1:])[:, : module.unet.config.in_channels].to(module.device)
    timesteps = torch.full((size,), 500, device=module.device)

    def forward() -> None:
        module.reference_pass(noisy, timesteps, module._reference_states[:1].expand(size, -1, -1))

    times = timed(
        {"plain": plain, "forward": FunctionLane(forward), "dco": dco}, rounds=rounds, block=block, warmup=block
    )
    plain.finish()
    dco.finish()
    ratio = [c / (a + b) for a, b, c in zip(*times.values(), strict=True)]
    print(lines("(a) DreamBooth step", times["plain"], "ms"))
    print(lines("(b) one no-grad forward", times["forward"], "ms"))
    print(lines("(c) DCO step", times["dco"], "ms"))
    print(lines("(c) / ((a) + (b))", ratio, f"median at most {STEP_BOUND}"))
    return median(ratio)


def sampling(pictures: int, rounds: int, block: int) -> tuple[float, float]:
    """Prints what a denoising step costs, and returns the ratios that are bounded."""
    cfg = compose_run([f"model.pretrained={ROOT / 'assets/sprites-sd'}", "logger=csv"])
    model = instantiate(cfg.model)
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    model.unet.add_adapter(LoraConfig(r=cfg.adapter.rank, target_modules=list(model.lora_targets)))
    states = model.encode_prompts(["a sks heart on a pink background"] * pictures)
    names = (REFERENCE_UNCONDITIONAL, REFERENCE_CONDITIONAL, STUDENT_UNCONDITIONAL, STUDENT_CONDITIONAL)
    latents = torch.randn(pictures, model.unet.config.in_channels, *[model.unet.config.sample_size] * 2)
    latents, timestep = latents.to(states.device), torch.tensor(500, device=states.device)

    hooks = ExitStack()  # of the lane that runs: all of them share the UNet

    def lane(guidance: str) -> FunctionLane:
        node = compose_run([f"guidance={guidance}", "logger=csv"]).guidance
        unet = GuidedUNet(
            model.unet,
            model.unet,
            instantiate(node),
            guidance_scale=model.guidance_scale,
            states=dict.fromkeys(names, states),
            scheduler=SimpleNamespace(timesteps=range(block)),
        )

        @torch.no_grad()
        def step() -> None:
            unet(latents, timestep, encoder_hidden_states=states)

        return FunctionLane(step, before=lambda: hooks.enter_context(unet.open()), after=hooks.close)

    guidances = ("cfg", "consistency", "parallel_rescaled")
    times = timed({name: lane(name) for name in guidances}, rounds=rounds, block=block, warmup=block)
    rescaled = [c / b for b, c in zip(times["consistency"], times["parallel_rescaled"], strict=True)]
    over_cfg = [c / a for a, c in zip(times["cfg"], times["parallel_rescaled"], strict=True)]
    print(lines(f"(d) denoising step of {pictures} pictures, CFG", times["cfg"], "ms"))
    print(lines("(e) consistency", times["consistency"], "ms"))
    print(lines("(f) parallel-rescaled", times["parallel_rescaled"], "ms"))
    print(lines("(f) / (e)", rescaled, f"median at most {RESCALED_BOUND}"))
    print(lines("(f) / (d)", over_cfg, f"median at most {CFG_BOUND}"))
    return median(rescaled), median(over_cfg)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="measured steps of every lane")
    parser.add_argument("--block", type=int, default=5, help="steps in a block")
    parser.add_argument("--pictures", type=int, default=4, help="pictures that are drawn at once")
    args = parser.parse_args()
    draw_bars_nowhere()
    rounds = max(1, args.steps // args.block)
    print(f"{torch.get_num_threads()} threads, {rounds} rounds of {args.block} steps")
    step = training(rounds, args.block)
    rescaled, over_cfg = sampling(args.pictures, rounds, args.block)
    return int(step > STEP_BOUND or rescaled > RESCALED_BOUND or over_cfg > CFG_BOUND)


if __name__ == "__main__":
    sys.exit(main())
