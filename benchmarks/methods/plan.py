"""What `run.py` runs: methods and settings to choose from, how much of each, and every training that comes of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

INDICATOR, STABILIZATION, ALIGNMENT = "overfitting_indicator", "representation_stabilization", "attention_alignment"
PARTS = (INDICATOR, STABILIZATION, ALIGNMENT)
PRIOR = "prior_preservation"
AUGMENTATION = "model.indicator_augmentation=true"  # which this model leaves out
METHODS: dict[str, tuple[str, tuple[str, ...]]] = {  # the experiment and, of its parts, those that stay
    "DreamBooth": ("dreambooth", ()),
    "DreamBooth + prior": ("dreambooth_prior", (PRIOR,)),
    "APT": ("apt_dreambooth", PARTS),
    "APT without indicator": ("apt_dreambooth", (STABILIZATION, ALIGNMENT)),
    "APT without stabilization": ("apt_dreambooth", (INDICATOR, ALIGNMENT)),
    "APT without alignment": ("apt_dreambooth", (INDICATOR, STABILIZATION)),
    "indicator alone": ("apt_dreambooth", (INDICATOR,)),
    "stabilization alone": ("apt_dreambooth", (STABILIZATION,)),
    "alignment alone": ("apt_dreambooth", (ALIGNMENT,)),
}
APT_SETTINGS: dict[str, dict[str, tuple[str, ...]]] = {  # of its parts
    "defaults": {},
    "augmentation": {INDICATOR: (AUGMENTATION,)},
    "augmentation of at most a tenth": {
        INDICATOR: (AUGMENTATION, "regularizer.overfitting_indicator.max_probability=0.1")
    },
    "augmentation, zoom at most 1.5": {INDICATOR: (AUGMENTATION, "module.augmentation.max_zoom=1.5")},
    "augmentation, border left out": {INDICATOR: (AUGMENTATION, "module.augmentation.mask_border=true")},
    "T = 4": {INDICATOR: ("model.loss_gap_scale=4",)},
    "T = 64": {INDICATOR: ("model.loss_gap_scale=64",)},
    "sites in the whole UNet": {
        STABILIZATION: ("regularizer.representation_stabilization.sites=['*.attn1']",),
        ALIGNMENT: ("regularizer.attention_alignment.sites=['*.attn2']",),
    },
    "weights × 10": {
        STABILIZATION: ("regularizer.representation_stabilization.weight=0.15",),
        ALIGNMENT: ("regularizer.attention_alignment.weight=1",),
    },
    "weights × 100": {
        STABILIZATION: ("regularizer.representation_stabilization.weight=1.5",),
        ALIGNMENT: ("regularizer.attention_alignment.weight=10",),
    },
}
SETTINGS = {  # to choose from, of the methods of one experiment: that of them which has every part tries them
    "DreamBooth + prior": {
        f"weight {weight}": {PRIOR: (f"regularizer.prior_preservation.weight={weight}",)} for weight in (0.3, 1, 3)
    },
    "APT": APT_SETTINGS,
}


@dataclass(frozen=True)
class Size:
    """How much is run; `seconds` of one run on one core of the machine that docs/benchmarks/methods.md was made on."""

    chosen_on: tuple[str, ...]
    subjects: tuple[str, ...]
    seeds: int
    prompts: int
    pictures: int
    steps: tuple[int, ...]
    denoising_steps: int
    seconds: int


DEFAULT = Size(
    chosen_on=("square_bolt", "circle_quarters"),
    subjects=("heart_face", "star_badge", "triangle_halves", "moon_halves"),
    seeds=2,
    prompts=10,
    pictures=2,
    steps=(0, 50, 100, 200, 300),
    denoising_steps=15,
    seconds=83,
)
FULL = replace(
    DEFAULT,
    seeds=5,
    prompts=20,
    pictures=4,
    steps=(0, 50, 100, 150, 200, 300, 400, 600),
    denoising_steps=20,
    seconds=340,  # reckoned from the default's, not measured
)
SIZES = {"default": DEFAULT, "full": FULL}


@dataclass(frozen=True)
class Run:
    """One training of a method of `METHODS`, with a choice of `SETTINGS` for those parts that it has."""

    method: str
    settings: str
    subject: str
    seed: int

    def folder(self, root: Path) -> Path:
        settings = f", {self.settings}" if METHODS[self.method][1] else ""
        return root / self.subject / f"{self.method}{settings}, seed {self.seed}"

    def overrides(self) -> list[str]:
        experiment, parts = METHODS[self.method]
        whole = tried_by(self.method)
        dropped = [f"~regularizer.{part}" for part in METHODS[whole][1] if part not in parts]
        settings = [each for part in parts for each in SETTINGS[whole][self.settings].get(part, ())]
        return [
            f"experiment={experiment}", *dropped, *settings, f"data.subject={self.subject}", f"seed={self.seed}"
        ]  # fmt: skip


def tried_by(method: str) -> str:
    """The method that has every part of this one's experiment, the first: its settings serve both."""
    return next(name for name, (experiment, _) in METHODS.items() if experiment == METHODS[method][0])


def runs(choices: Iterable[tuple[str, str]], subjects: Iterable[str], seeds: int) -> list[Run]:
    """Every combination with these methods and settings; one seed after the other: a first table is there early."""
    every = product(range(seeds), subjects, choices)
    return [Run(method, settings, subject, seed) for seed, subject, (method, settings) in every]


def trials(size: Size) -> list[Run]:
    """Those that settings are chosen by."""
    return runs([(method, name) for method in SETTINGS for name in SETTINGS[method]], size.chosen_on, 1)


def with_chosen(chosen: Mapping[str, str], size: Size) -> list[Run]:
    """Those that are reported, every method with the settings `chosen` of `SETTINGS`."""
    return runs([(method, chosen.get(tried_by(method), "")) for method in METHODS], size.subjects, size.seeds)
