"""Configs of runs made by 0.1.0, read as today's."""

import importlib.util

import pytest
from hydra.utils import get_class, get_object
from omegaconf import OmegaConf

from checks.arguments import check_nodes
from checks.moved import CLASSES, KEYS, MODULES, as_today, moved
from tests.runs import ROOT, compose

EVALUATION = {"_target_": "lightning_modules.evaluation.Evaluation", "seed": 0}
DRAWN = {"sample_evaluation": {"_target_": "lightning_modules.sample_evaluation.SampleEvaluation", "seed": 1}}
SUBJECT = {"_target_": "datamodules.sprites.subjects.sprite_subject", "subject": "heart_face"}
JUDGES = {"judge": "a", "identity": "b"}
TARGETS = [
    "callbacks.attention_alignment.AttentionAlignment",
    "callbacks.bss.BatchSpectralShrinkage",
    "callbacks.cross_entropy.CrossEntropy",
    "callbacks.denoising.Denoising",
    "callbacks.direct_consistency.DirectConsistency",
    "callbacks.feature_distillation.FeatureDistillation",
    "callbacks.l2sp.L2SP",
    "callbacks.min_snr.MinSNR",
    "callbacks.overfitting_indicator.OverfittingIndicator",
    "callbacks.prior_preservation.PriorPreservation",
    "callbacks.representation_stabilization.RepresentationStabilization",
    "callbacks.spatial_attention_transfer.SpatialAttentionTransfer",
    "callbacks.step_progress_bar.StepProgressBar",
    "callbacks.trainable_check.TrainableCheck",
    "callbacks.transmix.TransMix",
    "datamodules.classification_datamodule.ClassificationDataModule",
    "datamodules.dreambooth.dreambooth",
    "datamodules.fine_grained.cub200.cub200",
    "datamodules.fine_grained.fgvc_aircraft.fgvc_aircraft",
    "datamodules.fine_grained.oxford_pets.oxford_pets",
    "datamodules.fine_grained.stanford_cars.stanford_cars",
    "datamodules.fine_grained.stanford_dogs.stanford_dogs",
    "datamodules.folder.folder",
    "datamodules.image_folder.image_folder",
    "datamodules.sprites.cluttered_objects.cluttered_objects",
    "datamodules.sprites.cluttered_pretraining.ClutteredPairsDataModule",
    "datamodules.sprites.pretraining.SpritesDataModule",
    "datamodules.sprites.styles.sprite_style",
    "datamodules.sprites.subjects.sprite_subject",
    "datamodules.subject_datamodule.SubjectDataModule",
    "lightning_modules.adapter.FullFineTuning",
    "lightning_modules.adapter.LoRA",
    "lightning_modules.adapter.NoAdapter",
    "lightning_modules.adherence_stopping.AdherenceStopping",
    "lightning_modules.apt_diffusion.APTDiffusionModule",
    "lightning_modules.apt_diffusion.Augmentation",
    "lightning_modules.classification_evaluation.ClassificationEvaluation",
    "lightning_modules.diffusion.DiffusionModule",
    "lightning_modules.evaluation.Evaluation",
    "lightning_modules.gta_vit.GTAViTModule",
    "lightning_modules.guidance.AdaptiveProjectedGuidance",
    "lightning_modules.guidance.ClassifierFreeGuidance",
    "lightning_modules.guidance.ConsistencyGuidance",
    "lightning_modules.guidance.ParallelRescaledGuidance",
    "lightning_modules.guidance_grid.GuidanceGrid",
    "lightning_modules.learned_token.LearnedToken",
    "lightning_modules.mixing.Mix",
    "lightning_modules.pretrain_clip.PretrainCLIPModule",
    "lightning_modules.pretrain_judge.PretrainJudgeModule",
    "lightning_modules.pretrain_sd.PretrainSDModule",
    "lightning_modules.pretrain_vae.PretrainVAEModule",
    "lightning_modules.pretrain_vit.PretrainViTModule",
    "lightning_modules.sample_evaluation.SampleEvaluation",
    "lightning_modules.stable_diffusion.StableDiffusion",
    "lightning_modules.token_attention.TokenAttention",
    "lightning_modules.trajectory.Trajectory",
    "lightning_modules.vision_transformer.VisionTransformer",
    "lightning_modules.vit_adapter.FullFineTuning",
    "lightning_modules.vit_adapter.LinearProbe",
    "lightning_modules.vit_adapter.LoRA",
    "metrics.div.DIV",
    "metrics.fid.FID",
    "metrics.image_similarity.ImageSimilarity",
    "metrics.kid.KID",
    "metrics.nearest_training_similarity.NearestTrainingSimilarity",
    "metrics.pres.PRES",
    "metrics.text_similarity.TextSimilarity",
    "report.wandb_logger.wandb_logger",
]
"""What the configs of 0.1.0 (c60f8f6) could name, but for what is another library's."""


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


@pytest.mark.parametrize("module", sorted(set(MODULES.values())))
def test_modules_are_where_they_are_said_to_be(module):
    assert importlib.util.find_spec(module)


@pytest.mark.parametrize("old", MODULES)
def test_no_module_that_is_there_is_sent_elsewhere(old):
    assert not (ROOT / f"{old.replace('.', '/')}.py").exists()


@pytest.mark.parametrize("target", TARGETS)
def test_whatever_0_1_0_named_is_found(target):
    assert callable(get_object(moved(target)))


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
