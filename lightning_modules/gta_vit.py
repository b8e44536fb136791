"""`GTAViTModule`: one student pass and at most one pass of the source a step, for GTA and its comparators."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from callbacks.regularizer import Regularizer
from callbacks.step import ClassificationStep, ModelPass, Weights
from lightning_modules.mixing import Mix
from lightning_modules.regularized import RegularizedModule
from models.attention import ClsAttentionCapture
from models.capture import Capture
from models.vit import VisionTransformer, heads, parameter_groups
from models.vit_adapters import LinearProbe, ViTAdapter


class GTAViTModule(RegularizedModule):
    """Fine-tunes a pretrained ViT on labelled pictures, beside its own frozen self.

    Order of a step: mixing → student pass → the source's pass on the same pictures, without gradients, in eval mode.

    Args:
        model: the pretrained ViT, which becomes the student.
        adapter: what of it trains.
        mixing: CutMix and mixup of the batch; None leaves pictures alone.
        head_lr_scale: the new head's learning rate over the others'.
        layer_decay: factor of the learning rate from each block to the one below (timm's layer-wise decay); 1 is none.
        seed: of every draw of the run.
        regularizers, optimizer, lr_scheduler: see `RegularizedModule`.
    """

    kind: ClassVar[str] = "classification"

    step_type: ClassVar[type] = ClassificationStep
    serves: ClassVar[frozenset[str]] = frozenset({"reference", "sites", "cls_logits", "weights", "mixing"})

    def __init__(
        self,
        *,
        model: VisionTransformer,
        adapter: ViTAdapter,
        mixing: Mix | None,
        head_lr_scale: float,
        layer_decay: float,
        seed: int,
        regularizers: Mapping[str, Regularizer],
        optimizer: partial[torch.optim.Optimizer],
        lr_scheduler: Callable[..., Any],
    ) -> None:
        super().__init__(regularizers=regularizers, optimizer=optimizer, lr_scheduler=lr_scheduler)
        if not isinstance(model, VisionTransformer) or not isinstance(adapter, ViTAdapter):
            raise ValueError(
                f"module=gta_vit trains a ViT, not {type(model).__name__} with {type(adapter).__name__}: take model="
                "sprites_vit or vit_small_dino, and adapter=vit_full, vit_linear_probe or vit_lora"
            )
        if self.needs.reference and isinstance(adapter, LinearProbe):
            raise ValueError("adapter=vit_linear_probe trains the head alone, so nothing of the ViT can be kept: leave "
                             "the plug-ins out that compare it with the pretrained one")  # fmt: skip
        if self.needs.mixing and mixing is None:
            raise ValueError("a plug-in needs mixed pictures and module.mixing is null: module/mixing=cutmix_mixup")
        self.model, self.adapter, self.mixing, self.seed = model, adapter, mixing, seed
        self.head_lr_scale, self.layer_decay = head_lr_scale, layer_decay

    def setup(self, stage: str) -> None:
        """The head's width is known with the data. Then: adapters, hooks, compiling, in this order."""
        if hasattr(self, "vit"):
            return
        classes = self.trainer.datamodule.data.classes  # type: ignore[attr-defined]
        self.classes: tuple[str, ...] = classes
        self.model.set_classes(len(classes))
        vit = self.model.vit
        source = self.adapter.inject(vit)
        for plugin in self.regularizers.values():
            plugin.attach(vit)
        self._captures = (Capture(vit, self.needs.sites), ClsAttentionCapture(vit, self.needs.cls_logits))
        self._source_captures = self._captures
        if source is not vit and self.needs.reference:
            self._source_captures = (
                Capture(source, self.needs.sites),
                ClsAttentionCapture(source, self.needs.cls_logits),
            )
        self.vit, self.source = vit, source
        self._weights = self._paired_weights() if self.needs.weights else None
        self._source_features: Callable[[Tensor], Tensor] = source.forward_features  # type: ignore[assignment]
        if self.model.compile:
            vit.compile()
            self._source_features = torch.compile(self._source_features)
        self._accuracy = MulticlassAccuracy(len(classes), average="micro")

    def on_fit_start(self) -> None:
        self.train()  # Lightning warns of a frozen twin in eval mode

    def on_train_start(self) -> None:
        if self.source is not self.vit:
            self.source.eval()

    def make_step(self, batch: dict[str, Tensor]) -> ClassificationStep:
        pictures, labels = self.model.normalize(batch["pictures"]), batch["labels"]
        mixing = None
        if self.mixing is not None:
            pictures, mixing = self.mixing(pictures, batch["position"], seed=self.seed)
        sites, attention = self._captures
        with sites.recording() as captured, attention.recording() as cls_rows:
            logits = self.vit(pictures)
        return ClassificationStep(
            student=ModelPass(logits, captured | cls_rows),
            reference=self.reference_pass(pictures) if self.needs.reference else None,
            labels=labels,
            num_prefix_tokens=self.model.num_prefix_tokens,
            mixing=mixing,
            weights=self._weights,
        )

    @torch.no_grad()
    def reference_pass(self, pictures: Tensor) -> ModelPass:
        """The source's pass: the one call a step at which anything frozen runs."""
        sites, attention = self._source_captures
        with self.adapter.disabled(), sites.recording() as captured, attention.recording() as cls_rows:
            tokens = self._source_features(pictures)
        return ModelPass(tokens, captured | cls_rows)

    def _paired_weights(self) -> Weights:
        """Raises:
        ValueError: what trains of the backbone is not there in the pretrained model, so there is nothing to go back to.
        """
        source = dict(self.source.named_parameters())
        head = {id(p) for each in heads(self.vit) for p in each.parameters()}
        trained = {name: p for name, p in self.vit.named_parameters() if p.requires_grad}
        backbone = {name: p for name, p in trained.items() if id(p) not in head}
        if self.source is self.vit and backbone:
            raise ValueError("a plug-in compares weights with the pretrained ones, which need adapter=vit_full")
        return Weights(
            student=backbone,
            source={name: source[name] for name in backbone},
            head={name: p for name, p in trained.items() if id(p) in head},
        )

    def trained_groups(self, optimizer: Mapping[str, Any]) -> list[dict[str, Any]]:
        return parameter_groups(
            self.vit,
            lr=optimizer["lr"],
            weight_decay=optimizer["weight_decay"],
            head_lr_scale=self.head_lr_scale,
            layer_decay=self.layer_decay,
        )

    def describe(self, batch: dict[str, Tensor]) -> str:
        train = self.trainer.datamodule.data.train  # type: ignore[attr-defined]
        return "pictures " + ", ".join(train[index].name for index in batch["index"].tolist())

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """On pictures held out of the training set; the test set is looked at once, at the end of a run."""
        self._accuracy(self.vit(self.model.normalize(batch["pictures"])), batch["labels"])
        self.log("validation/accuracy", self._accuracy, on_step=False, on_epoch=True)

    def save(self, run_dir: Path) -> Path:
        """Writes what was trained, and returns the folder."""
        return self.adapter.save(self.vit, run_dir, self.classes)
