"""`DiffusionModule`: one student pass and at most one frozen pass a step, for every baseline."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from callbacks.regularizer import Regularizer
from callbacks.step import DiffusionStep, ModelPass
from checks.values import check_noise_offset
from datamodules import draws
from datamodules.draws import DrawStream
from datamodules.stream import epoch_order
from datamodules.subject import PromptPair, Subject
from lightning_modules.captures import Captures
from lightning_modules.paired_validation import PairedValidation, ValidatedRows
from lightning_modules.regularized import RegularizedModule
from models.adapters import Adapter
from models.columns import TokenColumns, subject_columns
from models.family import Condition, DiffusionFamily
from models.tokens.rows import LivePrompts, TokenRows, save_rows, warn_of_common_identifier
from models.tokens.settings import LearnedToken
from sampling.class_images import class_images
from sampling.guidance import Guidance
from sampling.sampler import sample_guided


class DiffusionModule(RegularizedModule):
    """Fine-tunes the denoiser of a pretrained text-to-picture model on a subject.

    Order of a step: t → latents → noise → student pass → frozen pass over the subject's rows. Latents and prompts are
    encoded once, before training, and the encoders then leave the accelerator.

    Args:
        model: the pretrained model.
        adapter: what of its denoiser trains.
        token: the words that are learned beside it, or None.
        guidance: of everything that is drawn of the student; None where nothing is.
        noise_offset: of every training row, class images too, as in diffusers; see `offset_noise`. The held-out loss is
            measured without it, so that runs compare.
        class_image_dir: cache of the class images that prior preservation asks for.
        seed: of every draw of the run.
        regularizers, optimizer, lr_scheduler: see `RegularizedModule`.
    """

    def __init__(
        self,
        *,
        model: DiffusionFamily,
        adapter: Adapter,
        token: LearnedToken | None,
        guidance: Guidance | None,
        noise_offset: float,
        class_image_dir: str,
        seed: int,
        regularizers: Mapping[str, Regularizer],
        optimizer: partial[torch.optim.Optimizer],
        lr_scheduler: Callable[..., Any],
    ) -> None:
        super().__init__(regularizers=regularizers, optimizer=optimizer, lr_scheduler=lr_scheduler)
        check_noise_offset(noise_offset)
        if guidance is not None and guidance.is_auto and not self.proposes_scale:
            raise ValueError("guidance.scale=auto is found by module=dco_rescale: take that, or give a number")
        self.model, self.adapter, self.token, self.guidance = model, adapter, token, guidance
        self.seed, self.noise_offset = seed, noise_offset
        self.token_rows: Any = torch.nn.ModuleDict()  # of each text encoder, by its name in the pipeline
        self.class_image_dir = Path(class_image_dir)
        # Adapters, then hooks, then compiling: a hook put on a layer before its adapter would miss the adapter.
        self.denoiser = model.denoiser
        self.frozen_denoiser: Any = adapter.inject(model)
        model.pretrained_denoiser = self.frozen_denoiser
        for plugin in self.regularizers.values():
            plugin.attach(self.denoiser)
        self.augmenting = self._augmenting_plugin()
        self._captures = self._captures_of(self.denoiser)
        shared = self.frozen_denoiser is self.denoiser
        self._frozen_captures = self._captures if shared else self._captures_of(self.frozen_denoiser)
        if model.compile:
            self.denoiser.compile()

    kind: ClassVar[str] = "personalisation"
    step_type: ClassVar[type] = DiffusionStep
    serves: ClassVar[frozenset[str]] = frozenset({"reference", "sites", "attention", "token_columns", "class_images"})

    proposes_scale: ClassVar[bool] = False
    """Whether a training finds the scale of a `guidance.scale=auto`."""

    augments: ClassVar[bool] = False
    """Whether this module can augment pictures before they are encoded."""

    encodes_while_training: bool = False
    """Whether pictures are encoded in the steps, so that their encoder has to stay on the device."""

    def _augmenting_plugin(self) -> Regularizer | None:
        """Raises:
        ValueError: more than one plug-in decides the augmentation, or one does and this module cannot augment.
        """
        found = [p for p in self.regularizers.values() if p.augmentation_probability(torch.zeros(1)) is not None]
        names = " and ".join(plugin.name for plugin in found)
        if len(found) > 1:
            raise ValueError(f"{names} both decide the augmentation: switch it off in one of them")
        if found and not self.augments:
            raise ValueError(
                f"regularizer.{names} wants to augment, which {type(self).__name__} does not: take "
                f"module=apt_diffusion, or switch it off (regularizer.{names}.augmentation=false)"
            )
        return found[0] if found else None

    def setup(self, stage: str) -> None:
        if self.token and not self.token_rows:
            if stage == "predict":
                raise ValueError("a run with a learned token is drawn with by task=sample, or after trainer.fit")
            subject: Subject = self.trainer.datamodule.subject  # type: ignore[attr-defined]
            for each in self.model.encoders:
                if each.learns_tokens:
                    self.token_rows[each.name] = TokenRows(
                        self.token, each.tokenizer, each.module, class_word=subject.class_word, seed=self.seed
                    )

    def trained_groups(self, optimizer: Mapping[str, Any]) -> list[dict[str, Any]]:
        if not self.token:
            return super().trained_groups(optimizer)
        rows = list(self.token_rows.parameters())
        weights = [parameter for parameter in self.denoiser.parameters() if parameter.requires_grad]
        return [{"params": weights}] * bool(weights) + [{"params": rows, "lr": self.token.lr}]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        for rows in self.token_rows.values():
            rows.keep_norm()

    def on_fit_start(self) -> None:
        self.train()  # gradient checkpointing asks for it, and Lightning warns of a frozen twin in eval mode
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        subject: Subject = datamodule.subject
        warn_of_common_identifier(self.model, subject)
        self.model.move_encoders(self.device)
        self.pictures: Tensor = datamodule.train_pictures
        self._moments = self.model.encode_pictures(self.pictures)
        instance_prompts = [picture.prompts.instance for picture in subject.train]
        self._live_prompts = LivePrompts(self.model, instance_prompts, self.send) if self.token else None
        if not self.token:
            self._student_conditions = self.model.encode_prompts(instance_prompts)
        self._reference_conditions = self.model.encode_prompts([p.prompts.prior for p in subject.train])
        self._columns = (
            subject_columns(self.model, subject, self.token, self.device) if self.needs.token_columns else None
        )
        if self.needs.class_images:
            if not self.trainer.is_global_zero:
                self.trainer.strategy.barrier()  # until process 0 has filled the cache
            pictures = class_images(
                self.model,
                subject,
                count=self.needs.class_images,
                cache_dir=self.class_image_dir,
            )
            if self.trainer.is_global_zero:
                self.trainer.strategy.barrier()
            self._class_moments = self.model.encode_pictures(pictures)
            self._class_condition = self.model.encode_prompts([subject.class_prompt])
        self._prepare_validation(datamodule)
        self.release_encoders()

    def _prepare_validation(self, datamodule: Any) -> None:
        train = datamodule.validation_train
        moments = [self._moments[: len(train)]]
        if datamodule.heldout_pictures is not None:
            moments.insert(0, self.model.encode_pictures(datamodule.heldout_pictures))
        self._validation = PairedValidation(
            self.model,
            datamodule.subject.heldout,
            train,
            moments=torch.cat(moments),
            num_bins=datamodule.num_bins,
            seed=self.seed,
            send=self.send,
        )

    def release_encoders(self) -> None:
        """Moves to the CPU what no step needs: a learned token's encoder stays, and that of augmented pictures."""
        self.model.move_encoders("cpu", pictures=not self.encodes_while_training, prompts=not self.token)

    def make_step(self, batch: dict[str, Tensor]) -> DiffusionStep:
        positions, index = batch["position"], batch["index"]
        t = self._draw_times(positions)
        latents, mask = self.instance_latents(positions, index, t[: len(index)])
        noise = self._draw_noise(DrawStream.NOISE, positions, tuple(latents.shape[1:]))
        rows = self.send(index)
        condition = self._live_prompts(index) if self._live_prompts else self._student_conditions[rows]
        if self.needs.class_images:
            class_latents, class_noise = self._class_rows(positions, tuple(latents.shape[1:]))
            latents, noise = torch.cat([latents, class_latents]), torch.cat([noise, class_noise])
            condition = Condition.cat([condition, self._class_condition.expand(len(positions))])

        process, on_device = self.model.noise_process, self.send(t)
        noisy, target = process.noisy(latents, noise, on_device), process.target(latents, noise, on_device)
        student = self._forward(self.denoiser, self._captures, noisy, on_device, condition)
        reference = None
        if self.needs.reference:
            needed = slice(len(index))
            reference = self.reference_pass(noisy[needed], on_device[needed], self._reference_conditions[rows])
        return DiffusionStep(
            student=student,
            reference=reference,
            target=target,
            t=t,
            snr=self.send(process.snr(t)),
            noise_process=process,
            num_instance=len(index),
            mask=mask,
            token_columns=self._columns and TokenColumns(self._columns.student[rows], self._columns.reference[rows]),
        )

    def send(self, tensor: Tensor) -> Tensor:
        """`tensor` from the CPU to the device, without waiting for it."""
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def save(self, run_dir: Path) -> Path:
        """Writes what was trained as diffusers reads it, and returns the adapter's folder."""
        if self.token:
            save_rows(self.token, self.token_rows, run_dir)
        return self.adapter.save(self.model, run_dir)

    def describe(self, batch: dict[str, Tensor]) -> str:
        train = self.trainer.datamodule.subject.train  # type: ignore[attr-defined]
        return "pictures " + ", ".join(train[index].name for index in batch["index"].tolist())

    def instance_latents(self, positions: Tensor, index: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Latents `[B, C, h, w]` of the subject's rows, and the mask `[B, 1, h, w]` of what counts, None for all."""
        return self._draw_latents(self._moments[self.send(index)], positions, DrawStream.POSTERIOR), None

    @torch.no_grad()
    def reference_pass(self, noisy: Tensor, t: Tensor, condition: Condition) -> ModelPass:
        """The frozen model's pass over the given rows: the one call a step at which anything frozen runs."""
        with self.adapter.disabled():
            return self._forward(self.frozen_denoiser, self._frozen_captures, noisy, t, condition)

    def _captures_of(self, denoiser: Any) -> Captures:
        model = self.model
        slices = {"text_columns": model.text_columns, "image_rows": model.image_rows}
        return Captures(denoiser, self.needs, model.sites, **slices)

    def _forward(self, denoiser: Any, captures: Captures, noisy: Tensor, t: Tensor, condition: Condition) -> ModelPass:
        with captures.recording() as recorded:
            prediction = self.model.denoise(denoiser, noisy, t, condition)
        return ModelPass(prediction, **recorded)

    def _draw_times(self, positions: Tensor) -> Tensor:
        streams = [DrawStream.TIMESTEP] + [DrawStream.CLASS_TIMESTEP] * bool(self.needs.class_images)
        draw = self.model.noise_process.draw_time
        return torch.cat([draws.times(self.seed, stream, positions, draw) for stream in streams])

    def _draw_latents(self, moments: Tensor, positions: Tensor, stream: DrawStream) -> Tensor:
        shape = (moments.shape[1] // 2, *moments.shape[2:])
        return self.model.latents(moments, self.send(draws.normal(self.seed, stream, positions, shape)))

    def _draw_noise(self, stream: DrawStream, positions: Tensor, shape: tuple[int, ...]) -> Tensor:
        return self.send(draws.noise(self.seed, stream, positions, shape, noise_offset=self.noise_offset))

    def _class_rows(self, positions: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Latents and noise of one class image for each position."""
        count = len(self._class_moments)
        index = [int(epoch_order(self.seed + 1, p // count, count)[p % count]) for p in positions.tolist()]
        moments = self._class_moments[self.send(torch.tensor(index))]
        latents = self._draw_latents(moments, positions, DrawStream.CLASS_POSTERIOR)
        return latents, self._draw_noise(DrawStream.CLASS_NOISE, positions, shape)

    def on_validation_epoch_start(self) -> None:
        self._validation.begin()
        if self.token:  # its row has moved since
            self._validation.encode_students()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.validated(batch["index"], batch["bin"])

    def validated(self, index: Tensor, bins: Tensor) -> ValidatedRows:
        """Asks both models of pictures `index` `[B]` at `bins` `[B]`, and adds what they say to the validation."""
        rows = self._validation.rows(index, bins)
        process = self.model.noise_process
        noisy, target = (of(rows.latents, rows.noise, rows.t) for of in (process.noisy, process.target))
        student = self._forward(self.denoiser, self._captures, noisy, rows.t, rows.student_condition)
        reference = self.reference_pass(noisy, rows.t, rows.reference_condition)
        self._validation.add(index, bins, student=student.prediction, reference=reference.prediction, target=target)
        return ValidatedRows(noisy, rows.t, student.prediction, reference.prediction)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self._validation.metrics())

    def on_predict_start(self) -> None:
        self.model.move_encoders(self.device)

    @torch.no_grad()
    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[Image.Image]:
        """One picture for each prompt, by `guidance`, from the noise of its seed: the same on any number of devices.

        Args:
            batch: of `datamodules.prompts.prompt_loader`.

        Raises:
            ValueError: this module has no guidance.
        """
        if self.guidance is None:
            raise ValueError("guidance=null draws nothing: guidance=cfg is classifier-free guidance")
        both = zip(batch["instance"], batch["prior"], strict=True)
        pairs = [PromptPair(instance=instance, prior=prior) for instance, prior in both]
        return sample_guided(self.model, pairs, self.guidance, seeds=batch["seed"].tolist(), description=None)[0]
