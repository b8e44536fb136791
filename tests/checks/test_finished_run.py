"""What a command line changes of a finished run, and what it may not."""

import pytest
from omegaconf import OmegaConf

from checks.config import check
from checks.finished_run import override_run
from checks.moved import as_today
from tests.runs import compose

OWN = {"rule": "constant", "scale": 0.5, "kappa": 0.3, "consistency_scale": 1.0, "start": 0.0, "stop": 1.0}
SCALE = 4.5  # of the run's model; sprites has another
RUN = {
    "model": {"_target_": "models.families.sd.StableDiffusion", "guidance_scale": SCALE},
    "module": {"_target_": "lightning_modules.apt.APTDiffusionModule"},
    "datamodule": {},
    "guidance": {"_target_": "sampling.guidance.ParallelRescaledGuidance", **OWN},
}


def overridden(tmp_path, *overrides, run_config=RUN):
    """The config of a finished run after this command line."""
    run_cfg = OmegaConf.create(as_today(run_config))  # as `finished_run` reads it
    override_run(run_cfg, compose(tmp_path, "task=sample", "run=somewhere", *overrides))
    return run_cfg


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        ([], {}),
        (["guidance.consistency_scale=2"], {"consistency_scale": 2}),
        (["+guidance.consistency_scale=2"], {"consistency_scale": 2}),
        (["++guidance.rule=cfg_clamp", "guidance.stop=0.5"], {"rule": "cfg_clamp", "stop": 0.5}),
    ],
)
def test_a_key_of_the_run_s_own_guidance_is_changed_and_no_other(tmp_path, overrides, changed):
    guidance = OmegaConf.to_container(overridden(tmp_path, *overrides).guidance, resolve=True)
    assert guidance.pop("_target_").endswith(".ParallelRescaledGuidance")
    assert guidance == OWN | {"guidance_scale": SCALE} | changed


@pytest.mark.parametrize(
    ("overrides", "scale"),
    [
        ([], SCALE),
        (["guidance.guidance_scale=1.5"], 1.5),
        (["++guidance.guidance_scale=1.5"], 1.5),
        (["model.guidance_scale=1.5"], 1.5),
        (["model.guidance_scale=2", "guidance.guidance_scale=1.5"], 1.5),
        (["guidance=cfg"], SCALE),
        (["guidance=cfg", "guidance.guidance_scale=1.5"], 1.5),
        (["guidance=apg", "model.guidance_scale=1.5"], 1.5),
    ],
)
@pytest.mark.parametrize("before", [{}, {"guidance_scale": 3.0}], ids=["made before there was the key", "made today"])
def test_the_scale_of_what_is_drawn(tmp_path, overrides, scale, before):
    run_config = RUN | {"guidance": RUN["guidance"] | before}
    keeps = not any("guidance=" in each or "_scale" in each for each in overrides)
    expected = before.get("guidance_scale", scale) if keeps else scale
    assert overridden(tmp_path, *overrides, run_config=run_config).guidance.guidance_scale == expected


def test_a_group_replaces_the_guidance_as_a_whole_and_keys_are_the_new_one_s(tmp_path):
    for overrides in (["guidance=consistency", "guidance.stop=0.5"], ["guidance.stop=0.5", "guidance=consistency"]):
        guidance = OmegaConf.to_container(overridden(tmp_path, *overrides).guidance, resolve=True)
        assert guidance.pop("_target_").endswith(".ConsistencyGuidance")
        assert guidance == {"guidance_scale": SCALE, "consistency_scale": 3.0, "start": 0.0, "stop": 0.5}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["guidance.foo=1"],
            r"unknown key 'guidance\.foo': .*ParallelRescaledGuidance takes consistency_scale, guidance_scale, kappa,",
        ),
        (
            ["guidance=consistency", "guidance.rule=constant"],
            r"'guidance\.rule': .*takes consistency_scale, guidance_scale, start, stop",
        ),
        (["guidance=cfg", "guidance.scale=1"], r"'guidance\.scale': .*ClassifierFreeGuidance takes guidance_scale"),
        (["+model.foo=1"], r"unknown key 'model\.foo'"),
        (["optimizer.lr=1"], r"optimizer\.lr=1 has no effect on a finished run"),
        (["evaluation.max_prompts=3"], r"evaluation\.max_prompts=3 judges, and task=sample only draws"),
        (["guidance.scale=auto"], r"guidance\.scale=auto is found by a training of module=dco_rescale"),
    ],
)
def test_an_unknown_key_is_refused_with_the_known_ones(tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        overridden(tmp_path, *overrides)


def test_a_run_of_before_there_was_a_choice_has_the_default_guidance(tmp_path):
    run_cfg = overridden(tmp_path, run_config={key: RUN[key] for key in ("model", "module", "datamodule")})
    assert run_cfg.guidance == {"_target_": "sampling.guidance.ClassifierFreeGuidance", "guidance_scale": SCALE}


def test_a_run_of_before_augmentation_was_the_model_s_choice_is_loaded(tmp_path):
    assert overridden(tmp_path).model.indicator_augmentation is True


def test_a_classifier_is_not_guided(tmp_path):
    classifier = {"model": {}, "module": {"_target_": "lightning_modules.gta_vit.GTAViTModule"}}
    with pytest.raises(ValueError, match=r"guidance\.scale=1 guides what is drawn, and this run is a classifier"):
        overridden(tmp_path, "guidance.scale=1", run_config=classifier)


def test_a_training_run_s_guidance_has_its_own_keys_only(tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown key 'guidance\.foo': .*takes consistency_scale, guidance_scale, kappa,"
    ):
        check(compose(tmp_path, "experiment=dco_rescale", "guidance.foo=1"))
