"""`task=sample run=<run> 'prompts=[…]'`: draws with a finished run, or several merged."""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from checks.arguments import class_attribute
from checks.assets import with_assets
from checks.finished_run import override_run, prompt_pairs, record_of_runs, runs_to_draw_with
from checks.folders import check_pipeline_folder
from checks.kind import is_classifier
from checks.run_folder import refuse_used
from checks.values import at_least
from tasks.finished import load


def sample(cfg: DictConfig, out_dir: Path) -> None:
    """Draws `prompts` with a finished run, or several merged; picture `i` of each from seed `evaluation.seed + i`.

    Raises:
        ValueError, OSError: no such run, nothing to draw, an override without an effect, or `out_dir` is used.
    """
    runs = runs_to_draw_with(cfg)
    _, run_cfg = runs[0]
    if is_classifier(run_cfg):
        raise ValueError(f"run={runs[0][0]} is a classifier, which draws nothing: task=evaluate judges it")
    _check_prompts(cfg)
    refuse_used(out_dir)
    override_run(run_cfg, cfg)
    if not run_cfg.guidance:
        raise ValueError("guidance=null draws nothing: guidance=cfg is classifier-free guidance")
    runs = [(folder, with_assets(each)) for folder, each in runs]
    _, run_cfg = runs[0]
    check_pipeline_folder(run_cfg.model.pretrained, class_attribute(run_cfg.model._target_, "pipeline_class"))
    guidance = instantiate(run_cfg.guidance)
    pairs = prompt_pairs(list(cfg.prompts), [each for _, each in runs])
    model = _tuned(runs, list(cfg.weights))

    from evaluation.samples import sample_to_folder

    settings, info = cfg.evaluation, {"runs": record_of_runs(runs, list(cfg.weights))}
    sample_to_folder(
        model, pairs, guidance, out_dir, images_per_prompt=settings.images_per_prompt, seed=settings.seed, info=info
    )
    print(f"the pictures lie in {out_dir}")


def _check_prompts(cfg: DictConfig) -> None:
    if isinstance(cfg.prompts, str):
        raise ValueError(f"prompts={cfg.prompts!r} is no list: prompts=[{cfg.prompts!r}]")
    if not cfg.prompts:
        raise ValueError('prompts=[] names nothing to draw: prompts=["a photo of a sks heart on a pink background"]')
    at_least("evaluation.images_per_prompt", cfg.evaluation.images_per_prompt, 1)


def _tuned(runs: list[tuple[Path, DictConfig]], weights: list[float]) -> Any:
    """The pretrained model with what the run learned, or with several runs' adapters merged by `weights`."""
    from models.adapters import load_merged

    run_dir, run_cfg = runs[0]
    model, adapter = load(run_cfg)
    if not weights:
        adapter.load(model, run_dir)
        return model
    for folder, each in runs:
        if token := instantiate(each.get("token")):
            token.load(model.pipeline, folder)
    load_merged(model.pipeline, [folder for folder, _ in runs], weights=weights)
    return model
