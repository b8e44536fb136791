"""`GTAViTModule`: a ViT beside its source, and where both of them look."""

import torch
from torch import Tensor

from callbacks.regularizers.spatial_attention_transfer import attention_transfer_loss
from callbacks.step import Needs
from lightning_modules.captures import Captures
from lightning_modules.classification import ClassificationModule
from models.adapters import Adapter

BLOCKS = Needs(cls_logits=frozenset({"blocks.*.attn"}))
"""The [CLS] rows of each of timm's transformer blocks."""


class GTAViTModule(ClassificationModule):
    """Guided transfer of spatial attention, GTA (arXiv:2401.02656): the source stands beside the student throughout.

    The [CLS] rows of both are captured for the plug-ins that compare them. Wherever pictures are held out of training,
    `validation/attention_divergence/block_NN` tells how far the student's look has drifted from the source's, whether
    a plug-in holds it or not; see `attention_divergence`.

    Args: see `ClassificationModule`.

    Raises:
        ValueError: the adapter trains the head alone, under which student and source look alike to the end.
    """

    @property
    def source_rows(self) -> frozenset[str]:
        """The source's [CLS] rows are captured wherever the student's are."""
        return self.needs.cls_logits

    def _refuse_adapter(self, adapter: Adapter) -> None:
        if not adapter.moves_features:
            raise ValueError(
                f"module=gta_vit compares where student and source look, and {type(adapter).__name__} trains the head "
                "alone, so nothing could drift: adapter=full or vit_lora, or module=classification"
            )

    def register_captures(self) -> None:
        """The base's, and every block of both where a validation looks at them."""
        super().register_captures()
        if self.trainer.datamodule.data.validation:  # type: ignore[attr-defined]
            self._looks = self._source_looks = Captures(self.vit, BLOCKS)
            if self.source is not self.vit:
                self._source_looks = Captures(self.source, BLOCKS)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """The base's, and the source's pass on the same pictures."""
        with self._looks.recording() as looked:
            super().validation_step(batch, batch_idx)
        source = self._source_pass(self.model.normalize(batch["pictures"]), self._source_looks).cls_logits
        student = looked["cls_logits"]
        drifts = {
            f"validation/attention_divergence/block_{number:02d}": attention_divergence(
                student[name], source[name], num_prefix_tokens=self.model.num_prefix_tokens
            )
            for number, name in enumerate(student)
        }
        self.log_dict(drifts, on_step=False, on_epoch=True, batch_size=len(batch["labels"]), sync_dist=True)


def attention_divergence(student: Tensor, source: Tensor, *, num_prefix_tokens: int) -> Tensor:
    """Mean over pictures and heads of `KL(source ‖ student)` in nats, of [CLS] rows softmaxed over the patches.

    Not stated in the sources, which look at maps. A scalar in float32, 0 where both look alike.

    Args:
        student, source: `[B, heads, N]` logits before the softmax, [CLS] first.
        num_prefix_tokens: how many of the `N` tokens are no patches.
    """
    with torch.autocast(student.device.type, enabled=False):
        return attention_transfer_loss(
            student, source, num_prefix_tokens=num_prefix_tokens, include_cls=False, center=False, divergence="kl"
        )
