"""`DCOAPTModule`: DCO's training with APT's augmentation."""

from lightning_modules.apt import APTDiffusionModule
from lightning_modules.dco_rescale import DCORescaleModule


class DCOAPTModule(APTDiffusionModule, DCORescaleModule):
    """Pictures are augmented as in `APTDiffusionModule`; everything else is `DCORescaleModule`'s."""
