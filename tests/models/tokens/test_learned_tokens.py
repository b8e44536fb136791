"""Several learned tokens in one run: DCO's `<dog> in <style>`; what one alone does is in test_learned_token.py."""

import math

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

import run
from checks.config import check
from checks.finished_run import finished_run, prompt_pairs
from models.tokens.rows import TokenRows
from report.metrics_csv import read_metrics
from tests.models.test_adapter import array
from tests.models.tokens.test_learned_token import text_parts, token, word_row
from tests.runs import adapter_weights, checkpoint, compose, same, train

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")

PROMPT = 'data.instance_prompt="a photo of a {identifier} {class_word} on an <scene> background"'
SCENE = "+token.others.scene.class_word=olive"
TWO = ["token=learned", "token.lr=1e-2", PROMPT, SCENE]
STYLE = {"style": {"class_word": "striped"}}


def embeds(run_dir):
    return load_file(run_dir / "learned_embeds.safetensors") | load_file(run_dir / "learned_embeds_scene.safetensors")


# ---- before anything slow


def test_every_token_gives_way_to_its_class_word(tmp_path):
    data = check(compose(tmp_path, "experiment=textual_inversion", PROMPT, SCENE))
    prompts = data.train[0].prompts
    assert prompts.instance == "a photo of a <subject> on an <scene> background"
    assert prompts.prior == data.class_prompt == "a photo of a heart on an olive background"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"others": {"scene": {"initializer": "olive"}}}, r"token\.others\.scene\.class_word is missing"),
        ({"others": {"scene": {"class_word": " "}}}, r"token\.others\.scene\.class_word is missing"),
        ({"others": {"scene": "olive"}}, r"token\.others\.scene\.class_word is missing"),
        ({"others": {"scene": {"class_word": "olive", "lr": 1}}}, r"unknown key 'token\.others\.scene\.lr'"),
        ({"others": {"scene": {"class_word": "olive", "num_vectors": 0}}}, r"token\.others\.scene\.num_vectors=0"),
        ({"others": STYLE, "initializer": "heart"}, r"token\.others\.style\.initializer is missing"),
        ({"others": {"<style>": {"class_word": "olive"}}}, r"letters, digits, - and _ make a name"),
        ({"others": STYLE, "placeholder": "<style>"}, "'<style>' and '<style>' cannot be told apart"),
        ({"others": STYLE, "placeholder": "<STYLE>"}, "'<STYLE>' and '<style>' cannot be told apart"),
        ({"others": STYLE, "placeholder": "style"}, "'style' and '<style>' cannot be told apart"),
        ({"placeholder": "<Heart>", "num_vectors": 2}, "lower case only"),
    ],
)
def test_tokens_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        token(**changes)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+token.others.style.class_word=flat"], r"style \('<style>' in prompts\) stands in no training prompt"),
        ([SCENE, "+token.others.scene.initializer=''"], r"token\.others\.scene\.initializer='' is 0 tokens"),
        (["+token.others.scene.class_word=elephant"], r"scene\.initializer='elephant' is \d tokens"),
        ([SCENE, PROMPT.replace("<scene>", "<scene> or <scene>_1")], r"'<scene>' in prompts\) is a part of"),
        ([SCENE, PROMPT.replace("an <scene>", "<scene> or <SCENE>")], "write <scene> in these letters"),
    ],
)
def test_tokens_that_data_or_tokenizer_do_not_fit_are_refused(tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        check(compose(tmp_path, "experiment=textual_inversion", PROMPT, *overrides))


def test_a_placeholder_that_the_tokenizer_has_is_refused(tiny_sd):
    tokenizer, encoder = text_parts(tiny_sd)
    tokenizer.add_tokens(["<style>"])
    with pytest.raises(ValueError, match=r"token\.others\.style.*has the token '<style>' already"):
        TokenRows(token(others=STYLE), tokenizer, encoder, class_word="heart", seed=0)


# ---- the rows


def test_each_starts_as_its_own_words_and_keeps_its_own_norms(tiny_sd):
    others = {
        "style": {"class_word": "striped", "num_vectors": 2},
        "pair": {"class_word": "red heart", "num_vectors": 2},  # a vector for each word
        "noise": {"class_word": "blue", "initializer": None},
    }
    tokenizer, encoder = text_parts(tiny_sd)
    before = encoder.get_input_embeddings().weight.clone()
    rows = TokenRows(token(others=others), tokenizer, encoder, class_word="heart", seed=0)
    starts = torch.stack([word_row(tiny_sd, word) for word in ("heart", "striped", "striped", "red", "heart")])
    assert torch.equal(rows.rows[:5], starts) and rows.rows.shape == (6, 32)
    assert not torch.isclose(rows.rows[5], word_row(tiny_sd, "blue")).any()
    assert torch.equal(encoder.get_input_embeddings().weight[: len(before)], before)
    ids = tokenizer("<noise> <subject> <pair>_1", add_special_tokens=False).input_ids
    torch.testing.assert_close(encoder.get_input_embeddings()(torch.tensor(ids)), rows.rows[[5, 0, 4]])
    norms = rows.rows.norm(dim=1).detach().clone()
    assert len(set(norms.tolist())) == 4
    with torch.no_grad():
        rows.rows.mul_(3).add_(0.1)
    rows.keep_norm()
    torch.testing.assert_close(rows.rows.norm(dim=1), norms)


def test_the_text_is_pooled_at_its_real_end(tiny_sd):
    tokenizer, encoder = text_parts(tiny_sd)
    for module in encoder.modules():  # as Stable Diffusion 1.5's config has it
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = 2
    TokenRows(token(others=STYLE, num_vectors=2), tokenizer, encoder, class_word="heart", seed=0)
    texts = ["a <subject> <subject>_1 in <style> <style>_1", "<style> <style>_1", "a red heart"]
    ids = tokenizer(texts, return_tensors="pt", padding="max_length").input_ids
    found = encoder(ids)
    ends = (ids == tokenizer.eos_token_id).int().argmax(1)
    torch.testing.assert_close(found.pooler_output, found.last_hidden_state[torch.arange(3), ends])
    assert not torch.allclose(found.pooler_output, found.last_hidden_state[torch.arange(3), ids.argmax(1)])


# ---- runs


@pytest.mark.parametrize("extra", [[], ["model.dtype=bfloat16", "trainer.precision=bf16-mixed"]], ids=["fp32", "bf16"])
def test_both_start_as_their_words_and_move(monkeypatch, tiny_sd, tmp_path, extra):
    """DCO's loss is log 2, and the attention maps are aligned, as long as `c*` embeds as `c` (METHODS §2.1)."""
    run_dir = train(
        monkeypatch, tiny_sd, tmp_path / "run", "experiment=dco_apt", *TWO, "token.lr=5e-6", *extra,
        "regularizer.direct_consistency.beta=1000", "optimizer.weight_decay=0",
    )  # fmt: skip
    curves = read_metrics(run_dir / "metrics.csv")
    losses, distances = (
        [value for _, value in curves[f"loss/{name}"]] for name in ("direct_consistency", "attention_alignment")
    )
    assert losses[0] == pytest.approx(math.log(2), abs=2e-5) and losses[1] != losses[0]
    assert distances[0] == pytest.approx(0, abs=1e-10) and distances[1] > distances[0]
    for placeholder, word in (("<subject>", "heart"), ("<scene>", "olive")):
        start = word_row(tiny_sd, word).to(torch.bfloat16 if extra else torch.float32).float()
        moved = (embeds(run_dir)[placeholder][0] - start).abs()
        assert 5e-6 < moved.max() < 5e-5 and (moved > 0).float().mean() > 0.9


def test_resumed_equals_unbroken(monkeypatch, tiny_sd, tmp_path):
    overrides = [
        "experiment=textual_inversion", *TWO, "+token.others.scene={num_vectors: 2, initializer: null}",
        "callbacks.model_checkpoint.every_n_train_steps=3", "+callbacks.model_checkpoint.save_top_k=-1",
    ]  # fmt: skip
    unbroken = train(monkeypatch, tiny_sd, tmp_path / "unbroken", *overrides, steps=6)
    path = f"ckpt_path='{unbroken}/checkpoints/step_3.ckpt'"
    resumed = train(monkeypatch, tiny_sd, tmp_path / "resumed", *overrides, path, steps=6)
    assert same(embeds(unbroken), embeds(resumed)) and embeds(resumed)["<scene>"].shape == (2, 32)
    halfway = checkpoint(unbroken / "checkpoints/step_3.ckpt")["state_dict"]
    assert list(halfway) == ["token_rows.text_encoder.rows"] and halfway["token_rows.text_encoder.rows"].shape == (
        3,
        32,
    )
    with pytest.raises(ValueError, match=r"token\.others\.scene\.num_vectors is 1, and 2 in the run"):
        train(monkeypatch, tiny_sd, tmp_path / "other", *overrides, path, "token.others.scene.num_vectors=1", steps=6)


def test_plain_diffusers_and_merged_runs_draw_with_all_of_them(monkeypatch, tiny_sd, tmp_path):
    prompt, seed = "a photo of a <subject> on an <scene> background", 5
    settings = ["model.num_inference_steps=4", "model.guidance_scale=3", "optimizer.lr=2e-2"]
    run_dir = train(
        monkeypatch, tiny_sd, tmp_path / "run", "experiment=dreambooth", *TWO, "+token.others.scene.num_vectors=2",
        *settings,
    )  # fmt: skip
    plain_run = train(monkeypatch, tiny_sd, tmp_path / "plain", "experiment=dreambooth", *settings)

    def sampled(name, *overrides):
        out_dir = tmp_path / name
        command = compose(out_dir, "task=sample", f"prompts=['{prompt}']", f"evaluation.seed={seed}", *overrides)
        run.sample(command, out_dir)
        return array(Image.open(out_dir / "00-0.png"))

    ours = sampled("ours", f"run='{run_dir}'")
    merged = sampled("merged", f"adapters=['{run_dir}','{plain_run}']", "weights=[1,0]")
    np.testing.assert_array_equal(ours, merged)
    guided = sampled("guided", f"run='{run_dir}'", "guidance=consistency")
    assert not np.array_equal(ours, guided)

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    for name in ("learned_embeds", "learned_embeds_scene"):
        (key,) = load_file(run_dir / f"{name}.safetensors")
        assert key == {"learned_embeds": "<subject>", "learned_embeds_scene": "<scene>"}[name]
        pipeline.load_textual_inversion(run_dir / f"{name}.safetensors")
    pipeline.load_lora_weights(run_dir / "adapter")
    assert adapter_weights(run_dir)
    generator = torch.Generator().manual_seed(seed)
    size = {"num_inference_steps": 4, "guidance_scale": 3.0, "height": 32, "width": 32}
    plain = np.asarray(pipeline(prompt, generator=generator, **size).images[0]) / 255
    difference = np.abs(plain - ours)
    assert difference.max() < 1.5 / 255 and (difference > 0).mean() < 0.01  # one level, where another sum rounds

    # What the frozen model is asked for, what cannot be merged, and what is missing.
    cfg = OmegaConf.load(run_dir / "config.yaml")
    (pair,) = prompt_pairs([prompt], [cfg])
    assert pair.prior == "a photo of a heart on an olive background"
    cfg.token.placeholder = "<other>"
    twin = tmp_path / "twin"
    (twin / "adapter").mkdir(parents=True)
    (twin / "adapter/pytorch_lora_weights.safetensors").touch()
    OmegaConf.save(cfg, twin / "config.yaml")
    for name in ("learned_embeds.safetensors", "learned_embeds_scene.safetensors"):
        (twin / name).touch()
    with pytest.raises(ValueError, match=r"two runs learned the token '<scene>'.*token\.others"):
        sampled("twice", f"adapters=['{run_dir}','{twin}']", "weights=[1,1]")
    (run_dir / "learned_embeds_scene.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"learned_embeds_scene\.safetensors, which holds <scene>, is missing"):
        sampled("missing", f"run='{run_dir}'")


def test_runs_made_before_there_were_several_are_read(tmp_path):
    cfg = OmegaConf.to_container(compose(tmp_path, "experiment=textual_inversion"), resolve=True)
    del cfg["token"]["others"]
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    (tmp_path / "learned_embeds.safetensors").touch()
    _, run_cfg = finished_run(str(tmp_path), task="sample")
    assert instantiate(run_cfg.token).find(tmp_path) == [tmp_path / "learned_embeds.safetensors"]
