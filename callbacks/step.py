"""The contract between a module and its plug-ins: what a plug-in may ask of a step, and the record it is handed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from models.attention import AttentionRecord
from models.capture import Captured
from models.columns import TokenColumns
from models.noise_process import NoiseProcess


@dataclass(frozen=True, slots=True)
class Needs:
    """What a plug-in asks of every step; the module takes the union over all plug-ins, once.

    Args:
        reference: the frozen model's pass on the same input.
        sites: submodules whose outputs are captured in every pass: symbolic names of the family's ("decoder_self") or
            glob patterns ("up_blocks.*.attn1"), of which one that ends in "[last]" takes the last match only
            ("blocks.*.attn[last]"); each must match at least one submodule.
        attention: attention modules whose query and key are captured, named likewise ("text", "up_blocks.*.attn2").
        token_columns: which columns of student's and frozen model's cross-attention stand for the same words.
        class_images: this many pictures of the bare class, drawn by the pretrained model, in every batch's second half.
        cls_logits: a ViT's self-attention modules whose [CLS] rows are captured, named likewise ("blocks.*.attn").
        weights: the backbone's weights beside the pretrained ones.
        mixing: pictures that are mixed from two.
    """

    reference: bool = False
    sites: frozenset[str] = frozenset()
    attention: frozenset[str] = frozenset()
    token_columns: bool = False
    class_images: int = 0
    cls_logits: frozenset[str] = frozenset()
    weights: bool = False
    mixing: bool = False

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            reference=self.reference or other.reference,
            sites=self.sites | other.sites,
            attention=self.attention | other.attention,
            token_columns=self.token_columns or other.token_columns,
            class_images=max(self.class_images, other.class_images),
            cls_logits=self.cls_logits | other.cls_logits,
            weights=self.weights or other.weights,
            mixing=self.mixing or other.mixing,
        )


@dataclass(frozen=True, slots=True)
class ModelPass:
    """One forward: the model's output `[rows, …]`, and what was captured, by the submodules' full names.

    Each of the three mappings has `at(sites)`, which takes the sites as a plug-in's `Needs` names them.

    Args:
        captured: outputs of `Needs.sites`.
        attention: query and key of `Needs.attention`.
        cls_logits: `[B, heads, N]` of `Needs.cls_logits`, before the softmax; `N` counts the prefix tokens, [CLS]
            first.
    """

    prediction: Tensor
    captured: Captured[Tensor] = field(default_factory=Captured)
    attention: Captured[AttentionRecord] = field(default_factory=Captured)
    cls_logits: Captured[Tensor] = field(default_factory=Captured)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionStep:
    """Everything that one training step of a diffusion model knows. `B` rows: the subject's first, class images after.

    Args:
        student: the adapted model's pass over all `B` rows.
        reference: the frozen model's pass over the subject's rows, on the same noisy latents; None unless needed.
        target: `[B, C, h, w]`, what the prediction is compared with (the noise, a velocity).
        t: float32 `[B]` in [0, 1), on the CPU, where they are drawn; see `models.noise_process`.
        snr: float32 `[B]`, signal-to-noise ratio α²/σ² at `t`.
        noise_process: of the model, by which it was noised.
        num_instance: how many of the rows show the subject.
        mask: `[B, 1, h, w]` in [0, 1], the part of each row that counts in the loss; None where all of it does.
        token_columns: of the subject's rows; None unless needed.
        sample_weight: float32 `[num_instance]`, product of all plug-ins' sample weights; None before they were asked,
            and where nobody weights.
        computed: what `once` has computed already.
    """

    student: ModelPass
    reference: ModelPass | None
    target: Tensor
    t: Tensor
    snr: Tensor
    noise_process: NoiseProcess
    num_instance: int
    mask: Tensor | None = None
    token_columns: TokenColumns | None = None
    sample_weight: Tensor | None = None
    computed: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def draws(self) -> Mapping[str, Tensor]:
        """What was drawn for each row, for messages."""
        return {"t": self.t}

    def once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """What several plug-ins want of this step, computed when the first one asks for it."""
        if name not in self.computed:
            self.computed[name] = compute()
        return self.computed[name]


@dataclass(frozen=True, slots=True)
class Mixing:
    """How a batch was mixed: each row shows its own picture where `mask` is 1, and its partner's where it is 0.

    Args:
        partner: int64 `[B]`, the row that each row was mixed with.
        mask: float32 `[B, H, W]` in [0, 1]: a box of CutMix, or one number all over (mixup).
    """

    partner: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """The parameters of a backbone that train, beside the pretrained ones of the same names, and those of its head."""

    student: Mapping[str, Tensor]
    source: Mapping[str, Tensor]
    head: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationStep:
    """Everything that one training step of a classifier knows, `B` rows.

    Args:
        student: its prediction are the logits `[B, classes]`.
        reference: the pretrained model's pass on the same pictures; its prediction are its tokens `[B, N, D]`.
        labels: int64 `[B]`.
        num_prefix_tokens: how many of the tokens are no patches.
        mixing: None where pictures are not mixed.
        weights: None unless needed.
        sample_weight: float32 `[B]`, product of all plug-ins' sample weights; None before they were asked, and where
            nobody weights.
    """

    student: ModelPass
    reference: ModelPass | None
    labels: Tensor
    num_prefix_tokens: int
    mixing: Mixing | None = None
    weights: Weights | None = None
    sample_weight: Tensor | None = None

    @property
    def draws(self) -> Mapping[str, Tensor]:
        """What was drawn for each row, for messages."""
        return {"labels": self.labels}


Step = DiffusionStep | ClassificationStep


@dataclass(frozen=True, slots=True)
class TermOutput:
    """What a plug-in adds: an unweighted scalar `loss`, and further scalars for the logs."""

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
