"""`ClassificationModule`: one student pass and at most one pass of the source a step, for every way to tune a ViT."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from callbacks.regularizer import Regularizer
from callbacks.step import ClassificationStep, ModelPass, Weights
from lightning_modules.captures import Captures
from lightning_modules.mixing import Mix
from lightning_modules.regularized import RegularizedModule
from models.adapters import Adapter
from models.vit import VisionTransformer, parameter_groups


class ClassificationModule(RegularizedModule):
    """Fine-tunes a pretrained ViT on labelled pictures, beside its own frozen self where a plug-in asks for that.

    Order of a step: mixing → student pass → the source's pass on the same pictures, without gradients, in eval mode.

    Args:
        model: the pretrained ViT, which becomes the student.
        adapter: what of it trains.
        mixing: CutMix and mixup of the batch; None leaves pictures alone.
        head_lr_scale: the new head's learning rate over the others'.
        layer_decay: factor of the learning rate from each block to the one below (timm's layer-wise decay); 1 is none.
        seed: of every draw of the run.
        regularizers, optimizer, lr_scheduler: see `RegularizedModule`.

    Raises:
        ValueError: the model is no ViT, a plug-in needs mixed pictures and there are none, or one compares with the
            source what cannot drift from it, or where both look, which takes a `GTAViTModule`.
    """

    kind = "classification"
    step_type: ClassVar[type] = ClassificationStep
    serves: ClassVar[frozenset[str]] = frozenset({"reference", "sites", "attention", "cls_logits", "weights", "mixing"})

    def __init__(
        self,
        *,
        model: VisionTransformer,
        adapter: Adapter,
        mixing: Mix | None,
        head_lr_scale: float,
        layer_decay: float,
        seed: int,
        regularizers: Mapping[str, Regularizer],
        optimizer: partial[torch.optim.Optimizer],
        lr_scheduler: Callable[..., Any],
    ) -> None:
        super().__init__(regularizers=regularizers, optimizer=optimizer, lr_scheduler=lr_scheduler)
        if not hasattr(model, "vit"):
            raise ValueError(
                f"{type(self).__name__} trains a ViT, and a {type(model).__name__} has none: take model=sprites_vit or "
                "vit_small_dino, or another module"
            )
        self._refuse_adapter(adapter)
        if self.needs.mixing and mixing is None:
            raise ValueError("a plug-in needs mixed pictures and module.mixing is null: module/mixing=cutmix_mixup")
        self.model, self.adapter, self.mixing, self.seed = model, adapter, mixing, seed
        self.head_lr_scale, self.layer_decay = head_lr_scale, layer_decay

    def _refuse_unserved(self) -> None:
        super()._refuse_unserved()
        for name, plugin in self.regularizers.items():
            if plugin.needs.reference and not plugin.needs.cls_logits <= self.source_rows:
                raise ValueError(
                    f"regularizer.{name} compares where the student looks with where the source does, which "
                    f"{type(self).__name__} does not capture: module=gta_vit"
                )

    @property
    def source_rows(self) -> frozenset[str]:
        """Patterns of the attention whose [CLS] rows are captured of the source: none."""
        return frozenset()

    def _refuse_adapter(self, adapter: Adapter) -> None:
        if self.needs.reference and not adapter.moves_features:
            raise ValueError(
                f"{type(adapter).__name__} trains the head alone, so nothing of the ViT can be kept: leave "
                "the plug-ins out that compare it with the pretrained one, or take adapter=full or vit_lora"
            )

    def setup(self, stage: str) -> None:
        """The head's width is known with the data. Then: adapters, hooks, compiling, in this order."""
        if hasattr(self, "vit"):
            return
        self.model.set_classes(self.trainer.datamodule.data.classes)  # type: ignore[attr-defined]
        source: nn.Module = self.adapter.inject(self.model)
        self.vit, self.source = self.model.vit, source
        for plugin in self.regularizers.values():
            plugin.attach(self.vit)
        self.register_captures()
        self._weights = self._paired_weights() if self.needs.weights else None
        self._source_features: Callable[[Tensor], Tensor] = source.forward_features  # type: ignore[assignment]
        if self.model.compile:
            self.vit.compile()
            self._source_features = torch.compile(self._source_features)
        self._accuracy = MulticlassAccuracy(len(self.model.classes), average="micro")

    def register_captures(self) -> None:
        """Hooks for what plug-ins ask of a pass; of the [CLS] rows the source's are `source_rows` alone."""
        self._captures = self._source_captures = Captures(self.vit, self.needs)
        if self.source is not self.vit and self.needs.reference:
            self._source_captures = Captures(self.source, replace(self.needs, cls_logits=self.source_rows))

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
        with self._captures.recording() as recorded:
            logits = self.vit(pictures)
        return ClassificationStep(
            student=ModelPass(logits, **recorded),
            reference=self.reference_pass(pictures) if self.needs.reference else None,
            labels=labels,
            num_prefix_tokens=self.model.num_prefix_tokens,
            mixing=mixing,
            weights=self._weights,
        )

    def reference_pass(self, pictures: Tensor) -> ModelPass:
        """The source's pass: the one call a step at which anything frozen runs."""
        return self._source_pass(pictures, self._source_captures)

    @torch.no_grad()
    def _source_pass(self, pictures: Tensor, captures: Captures) -> ModelPass:
        with self.adapter.disabled(), captures.recording() as recorded:
            tokens = self._source_features(pictures)
        return ModelPass(tokens, **recorded)

    def _paired_weights(self) -> Weights:
        """Raises:
        ValueError: what trains of the backbone is not there in the pretrained model, so there is nothing to go back to.
        """
        source = dict(self.source.named_parameters())
        head = {id(p) for each in self.model.heads() for p in each.parameters()}
        trained = {name: p for name, p in self.vit.named_parameters() if p.requires_grad}
        backbone = {name: p for name, p in trained.items() if id(p) not in head}
        if self.source is self.vit and backbone:
            raise ValueError("a plug-in compares weights with the pretrained ones, which need adapter=full")
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
        return self.adapter.save(self.model, run_dir)
