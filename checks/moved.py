"""Where the classes stand today that a finished run's config names: a run made by 0.1.0 stays readable."""

from collections.abc import Mapping
from typing import Any

MODULES = {
    "callbacks.attention_alignment": "callbacks.regularizers.attention_alignment",
    "callbacks.bss": "callbacks.regularizers.bss",
    "callbacks.capture": "models.capture",
    "callbacks.cls_attention": "models.attention",
    "callbacks.cross_entropy": "callbacks.regularizers.cross_entropy",
    "callbacks.denoising": "callbacks.regularizers.denoising",
    "callbacks.direct_consistency": "callbacks.regularizers.direct_consistency",
    "callbacks.feature_distillation": "callbacks.regularizers.feature_distillation",
    "callbacks.l2sp": "callbacks.regularizers.l2sp",
    "callbacks.min_snr": "callbacks.regularizers.min_snr",
    "callbacks.overfitting_indicator": "callbacks.regularizers.overfitting_indicator",
    "callbacks.prior_preservation": "callbacks.regularizers.prior_preservation",
    "callbacks.representation_stabilization": "callbacks.regularizers.representation_stabilization",
    "callbacks.spatial_attention_transfer": "callbacks.regularizers.spatial_attention_transfer",
    "callbacks.step_progress_bar": "callbacks.progress_bar",
    "callbacks.token_columns": "models.columns",
    "callbacks.transmix": "callbacks.regularizers.transmix",
    "lightning_modules.adapter": "models.adapters",
    "lightning_modules.adherence_stopping": "callbacks.adherence_stopping",
    "lightning_modules.apt_diffusion": "lightning_modules.apt",
    "lightning_modules.attribute_figures": "evaluation.figures.attributes",
    "lightning_modules.background_figure": "evaluation.figures.background",
    "lightning_modules.callback_nodes": "checks.config",
    "lightning_modules.check": "checks.config",
    "lightning_modules.class_images": "sampling.class_images",
    "lightning_modules.classification_evaluation": "evaluation.classification",
    "lightning_modules.clip_text_encoder": "lightning_modules.pretraining.text_tower",
    "lightning_modules.common_identifier": "models.tokens.rows",
    "lightning_modules.diffusion_similarity": "evaluation.figures.diffusion_similarity",
    "lightning_modules.draws": "datamodules.draws",
    "lightning_modules.evaluation": "evaluation.pictures",
    "lightning_modules.evenly": "evaluation.samples",
    "lightning_modules.figure": "evaluation.figures.figure",
    "lightning_modules.finished_run": "checks.finished_run",
    "lightning_modules.guidance": "sampling.guidance",
    "lightning_modules.guidance_grid": "evaluation.drawings.guidance_grid",
    "lightning_modules.guided_unet": "sampling.guided_denoiser",
    "lightning_modules.identity_figure": "evaluation.figures.identity",
    "lightning_modules.judge_folder": "checks.folders",
    "lightning_modules.layer_decay": "models.vit",
    "lightning_modules.learned_token": "models.tokens.settings",
    "lightning_modules.merged_adapters": "models.adapters",
    "lightning_modules.metric_nodes": "checks.config",
    "lightning_modules.metrics_json": "evaluation.samples",
    "lightning_modules.node_arguments": "checks.arguments",
    "lightning_modules.offset_noise": "datamodules.draws",
    "lightning_modules.parallel_rescaled_guider": "sampling.modular_guider",
    "lightning_modules.per_picture_guidance": "sampling.guidance",
    "lightning_modules.picture_figures": "evaluation.figures.pictures",
    "lightning_modules.pipeline_folder": "checks.folders",
    "lightning_modules.placeholder_token": "models.tokens.settings",
    "lightning_modules.predicted_x0": "models.noise_process",
    "lightning_modules.pretrain_clip": "lightning_modules.pretraining.clip",
    "lightning_modules.pretrain_judge": "lightning_modules.pretraining.judge",
    "lightning_modules.pretrain_sd": "lightning_modules.pretraining.sd",
    "lightning_modules.pretrain_vae": "lightning_modules.pretraining.vae",
    "lightning_modules.pretrain_vit": "lightning_modules.pretraining.vit",
    "lightning_modules.relative_loss_figure": "evaluation.figures.relative_loss",
    "lightning_modules.run_folder": "checks.run_folder",
    "lightning_modules.sample_evaluation": "callbacks.sample_evaluation",
    "lightning_modules.sample_folder": "evaluation.samples",
    "lightning_modules.sampling": "sampling.sampler",
    "lightning_modules.similarity_curves": "evaluation.figures.similarity_curves",
    "lightning_modules.sprites_tokenizer": "lightning_modules.pretraining.tokenizer",
    "lightning_modules.stable_diffusion": "models.families.sd",
    "lightning_modules.subject_columns": "models.columns",
    "lightning_modules.token_attention": "evaluation.drawings.token_attention",
    "lightning_modules.token_rows": "models.tokens.rows",
    "lightning_modules.trajectory": "evaluation.drawings.trajectory",
    "lightning_modules.vision_transformer": "models.vit",
    "lightning_modules.vit_adapter": "models.adapters",
    "lightning_modules.vit_folder": "checks.folders",
    "lightning_modules.warp": "lightning_modules.augmentation",
    "metrics.attribute_adherence": "metrics.sprites.attribute_adherence",
    "metrics.backbone_source": "checks.backbones",
    "metrics.background_adherence": "metrics.sprites.background_adherence",
    "metrics.diffusion_features": "evaluation.figures.diffusion_similarity",
    "metrics.identity": "metrics.sprites.identity",
    "metrics.object_crop": "metrics.sprites.object_crop",
    "metrics.sprites_judge": "metrics.sprites.sprites_judge",
}
"""Modules of 0.1.0, and what they are called now."""

CLASSES: dict[str, str] = {
    "lightning_modules.evaluation.Evaluation": "evaluation.pictures.PictureEvaluation",
}
"""Classes that changed their name as well, by their path in 0.1.0."""

KEYS = {"models.families.sd.StableDiffusion": {"indicator_scale": "loss_gap_scale"}}
"""Keys of 0.1.0 and what they are called now, by today's path of the class that takes them."""


SINCE: dict[str, dict[str, Any]] = {
    "datamodule": {"val_train_pictures": 12},
    "model": {"indicator_augmentation": True, "consistency_scale": 3.0},
    "token": {"others": {}},
}
"""Keys that runs of before there was a choice do not have, and what was done then."""


def moved(target: str) -> str:
    """Today's path of the class `target`: itself, unless it was moved."""
    module, _, name = target.rpartition(".")
    return CLASSES.get(target) or f"{MODULES.get(module, module)}.{name}"


def as_today(config: dict[str, Any]) -> dict[str, Any]:
    """A run's `config`, plain containers, with targets and keys of 0.1.0 as they are called today."""
    return _with_guidance_scale(_with_moved_judges(_with_later_keys(_with_moved_targets(config))))


def _with_moved_targets(config: Any) -> Any:
    """`config` with every `_target_` below as it is called today, and the keys beside it."""
    if isinstance(config, Mapping):
        target = moved(str(config.get("_target_", "")))
        keys = KEYS.get(target, {})
        return {
            keys.get(key, key): target if key == "_target_" else _with_moved_targets(value)
            for key, value in config.items()
        }
    return [_with_moved_targets(each) for each in config] if isinstance(config, list) else config


def _with_later_keys(config: dict[str, Any]) -> dict[str, Any]:
    """Of what draws: a classifier never had these keys."""
    if (config.get("model") or {}).get("_target_") != "models.families.sd.StableDiffusion":
        return config
    completed = {name: keys | config[name] for name, keys in SINCE.items() if config.get(name)}
    guidance = {"_target_": "sampling.guidance.ClassifierFreeGuidance"}
    return {"guidance": guidance} | config | completed


def _with_guidance_scale(config: dict[str, Any]) -> dict[str, Any]:
    """The guidance's own scale, which was the model's alone."""
    evaluation = config.get("evaluation") or {}
    found = {"guidance": config.get("guidance"), "evaluation": evaluation.get("guidance")}
    scaled = {
        key: {"guidance_scale": "${model.guidance_scale}"} | node
        for key, node in found.items()
        if node and str(node.get("_target_")).startswith("sampling.guidance.")
    }
    if "evaluation" in scaled:
        scaled["evaluation"] = evaluation | {"guidance": scaled["evaluation"]}
    return config | scaled


def _with_moved_judges(config: dict[str, Any]) -> dict[str, Any]:
    """`data.judge` and `data.identity` where they are asked for today.

    That is in `evaluation`, and in `callbacks.sample_evaluation` where there is one.
    """
    evaluation, callbacks = config.get("evaluation") or {}, config.get("callbacks") or {}
    if evaluation.get("_target_") != CLASSES["lightning_modules.evaluation.Evaluation"] or "judge" in evaluation:
        return config
    data = dict(config.get("data") or {})
    is_embedded = str(data.get("_target_")).startswith("datamodules.sprites.")
    judges = {name: data.pop(name, None) if is_embedded else None for name in ("judge", "identity")}
    today = config | {"data": data, "evaluation": judges | evaluation}
    if drawn := callbacks.get("sample_evaluation"):
        today["callbacks"] = callbacks | {"sample_evaluation": judges | drawn}
    return today
