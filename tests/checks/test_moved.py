"""Configs of runs made by 0.1.0, read as today's."""

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from checks.arguments import check_nodes
from checks.moved import CLASSES, KEYS, as_today
from tests.runs import compose

EVALUATION = {"_target_": "lightning_modules.evaluation.Evaluation", "seed": 0}
DRAWN = {"sample_evaluation": {"_target_": "lightning_modules.sample_evaluation.SampleEvaluation", "seed": 1}}
SUBJECT = {"_target_": "datamodules.sprites.subjects.sprite_subject", "subject": "heart_face"}
JUDGES = {"judge": "a", "identity": "b"}


def test_judge_and_identity_move_from_the_data_to_the_evaluation_and_the_callback_that_asks_them():
    read = as_today({"data": SUBJECT | JUDGES, "evaluation": EVALUATION, "callbacks": DRAWN})
    assert read["data"] == SUBJECT
    assert read["evaluation"] == JUDGES | {"_target_": "evaluation.pictures.PictureEvaluation", "seed": 0}
    assert read["callbacks"]["sample_evaluation"].items() >= JUDGES.items()
    check_nodes(read)  # every key is one that the class of today takes
    assert as_today(read) == read


def test_photographs_and_another_s_data_keep_their_keys_and_have_no_judge():
    mine = {"_target_": "mine.data", "judge": "my own"}
    read = as_today({"data": mine, "evaluation": EVALUATION})
    assert read["data"] == mine and read["evaluation"].items() >= {"judge": None, "identity": None}.items()


def test_a_run_without_pictures_is_left_alone():
    classifier = {"data": None, "evaluation": {"_target_": "evaluation.classification.ClassificationEvaluation"}}
    assert as_today(classifier) == classifier


@pytest.mark.parametrize("target", [*CLASSES.values(), *KEYS])
def test_what_is_named_is_there(target):
    assert get_class(target)


def test_the_scale_that_stood_in_the_model_alone_is_the_guidance_s():
    old = {"_target_": "lightning_modules.guidance.ClassifierFreeGuidance"}
    read = as_today({"model": {"guidance_scale": 4.0}, "guidance": old, "evaluation": {"guidance": old}})
    for guidance in (OmegaConf.create(read).guidance, OmegaConf.create(read).evaluation.guidance):
        assert guidance == {"_target_": "sampling.guidance.ClassifierFreeGuidance", "guidance_scale": 4.0}
    mine = {"_target_": "mine.Guidance"}
    assert as_today({"guidance": mine}) == {"guidance": mine}


def test_keys_that_have_a_new_name_are_renamed_wherever_the_model_stands(tmp_path):
    model = OmegaConf.to_container(compose(tmp_path).model)
    assert isinstance(model, dict)
    old = {"indicator_scale" if key == "loss_gap_scale" else str(key): value for key, value in model.items()}
    old["_target_"] = "lightning_modules.stable_diffusion.StableDiffusion"
    read = as_today({"model": old, "module": {"model": old}})
    assert {key: read[key] for key in ("model", "module")} == {"model": model, "module": {"model": model}}


@pytest.mark.parametrize(
    "experiment", ["apt_dreambooth", "dco_apt", "textual_inversion", "gta_vit", "pretrain_sprites_sd"]
)
def test_what_is_composed_today_stays_as_it_is(tmp_path, experiment):
    config = OmegaConf.to_container(compose(tmp_path, f"experiment={experiment}"), resolve=True)
    assert as_today(config) == config
