"""A learned token: only its rows train, from where they should start, and plain diffusers reads what is saved."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import run
from checks.config import check
from datamodules.subject import prompt_pair
from lightning_modules.diffusion import DiffusionModule
from models.families.sd import StableDiffusion
from models.tokens.rows import LivePrompts, TokenRows, pool_at_eos
from models.tokens.settings import LearnedToken
from report.metrics_csv import read_metrics
from tests.models.test_adapter import array
from tests.runs import adapter_weights, cheap, checkpoint, compose, same, train

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")

INVERSION = ["experiment=textual_inversion", "data.num_heldout=2", "trainer.val_check_interval=2", "optimizer.lr=1e-2"]
BESIDE_LORA = ["experiment=dreambooth", "token=learned", "token.lr=1e-2", "data.num_heldout=2"]


def token(**changes):
    defaults = {"placeholder": "<subject>", "initializer": "{class_word}", "num_vectors": 1, "lr": 1e-2, "others": {}}
    return LearnedToken(**defaults | changes)


def text_parts(folder: Path):
    return (
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        CLIPTextModel.from_pretrained(folder / "text_encoder").requires_grad_(False),
    )


def embeds(run_dir: Path):
    return load_file(run_dir / "learned_embeds.safetensors")


def word_row(folder: Path, word: str):
    tokenizer, encoder = text_parts(folder)
    return encoder.get_input_embeddings().weight[tokenizer(word, add_special_tokens=False).input_ids[0]]


@pytest.fixture
def students(monkeypatch):
    """Every module that trains, for a look at it afterwards."""
    seen = []
    start = DiffusionModule.on_fit_start
    monkeypatch.setattr(DiffusionModule, "on_fit_start", lambda self: (seen.append(self), start(self))[1])
    return seen


# ---- prompts


@pytest.mark.parametrize(
    ("template", "instance", "prior"),
    [
        ("a photo of a {identifier} {class_word}", "a photo of a <dog>", "a photo of a dog"),
        ("a photo of a {identifier}", "a photo of a <dog>", "a photo of a dog"),
        ("a <dog> dog beside a dog", "a <dog> beside a dog", "a dog beside a dog"),
        ("low angle, <dog>, on a ledge", "low angle, <dog>, on a ledge", "low angle, dog, on a ledge"),
    ],
)
def test_the_token_stands_in_for_the_class_word(template, instance, prior):
    pair = prompt_pair(template, identifier="<dog>", class_word="dog", replaces_class_word=True)
    assert (pair.instance, pair.prior) == (instance, prior)


def test_the_token_may_stand_beside_the_class_word():
    pair = prompt_pair("a {identifier} {class_word}", identifier="<dog>", class_word="dog", replaces_class_word=False)
    assert (pair.instance, pair.prior) == ("a <dog> dog", "a dog")


@pytest.mark.parametrize("template", ["a photo of a {class_word}", "a photo of a dog", "<dog>_1", "x<dog>"])
def test_a_prompt_without_the_token_is_refused(template):
    with pytest.raises(ValueError, match="lacks the identifier '<dog>'"):
        prompt_pair(template, identifier="<dog>", class_word="dog", replaces_class_word=True)


# ---- what is refused before anything slow


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("token.num_vectors=0", r"token\.num_vectors=0"),
        ("token.lr=0", r"token\.lr=0"),
        ("token.placeholder='two words'", r"token\.placeholder='two words'"),
        ("token.placeholder=sks", "has the token 'sks' already"),
        ("token.placeholder=blue", "has the token 'blue' already"),
        ("token.placeholder=hear", "is a part of .*heart"),
        ("token.initializer=elephant", r"token\.initializer='elephant' is \d tokens"),
        ("token.initializer='red heart'", r"token\.initializer='red heart' is 2 tokens"),
        ("token.initializer=''", r"token\.initializer='' is 0 tokens"),
        ("data.identifier=sks", r"data\.identifier='sks' is not token\.placeholder='<subject>'"),
        ("data.instance_prompt='a photo of a <SUBJECT>'", "'a photo of a <SUBJECT>' lacks token.placeholder"),
    ],
)
def test_a_token_that_cannot_be_is_refused(tmp_path, override, message):
    with pytest.raises(Exception, match=message):
        check(compose(tmp_path, "experiment=textual_inversion", override))


def test_nothing_at_all_to_train_is_refused(tmp_path):
    with pytest.raises(ValueError, match="adapter=none trains nothing"):
        check(compose(tmp_path, "experiment=dreambooth", "adapter=none"))


def test_a_classifier_has_no_words(tmp_path):
    cfg = compose(tmp_path, "experiment=finetune_vit")
    cfg.token = compose(tmp_path, "token=learned").token
    with pytest.raises(ValueError, match="adds a word to a text encoder"):
        check(cfg)


def test_a_hub_models_tokenizer_is_asked_once_it_is_there(tiny_sd):
    with pytest.raises(ValueError, match="has the token 'sks' already"):
        TokenRows(token(placeholder="sks"), *text_parts(tiny_sd), class_word="heart", seed=0)


# ---- the rows


@pytest.mark.parametrize("num_vectors", [1, 3])
def test_it_starts_as_the_word_and_leaves_the_others_alone(tiny_sd, num_vectors):
    tokenizer, encoder = text_parts(tiny_sd)
    before = encoder.get_input_embeddings().weight.clone()
    rows = TokenRows(token(num_vectors=num_vectors), tokenizer, encoder, class_word="heart", seed=0)
    assert torch.equal(rows.rows, word_row(tiny_sd, "heart").expand(num_vectors, -1))
    embedding = encoder.get_input_embeddings()
    assert torch.equal(embedding.weight[: len(before)], before)
    assert [name for name, p in encoder.named_parameters() if p.requires_grad] == [
        "embeddings.token_embedding.trainable_tokens_delta.default"
    ]
    ids = tokenizer("a <subject> heart", add_special_tokens=False).input_ids
    torch.testing.assert_close(embedding(torch.tensor(ids))[1:2], rows.rows[:1])


def test_a_random_start_is_a_function_of_the_seed(tiny_sd):
    starts = [
        TokenRows(
            token(initializer=None, num_vectors=2), *text_parts(tiny_sd), class_word="heart", seed=seed
        ).rows.detach()
        for seed in (0, 0, 1)
    ]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2]) and not torch.equal(starts[0][0], starts[0][1])
    weight = text_parts(tiny_sd)[1].get_input_embeddings().weight
    assert starts[0].std().item() == pytest.approx(weight.std().item(), rel=0.5)


def test_spare_rows_behind_the_vocabulary_are_used_and_kept(tiny_sd):
    tokenizer, encoder = text_parts(tiny_sd)
    encoder.resize_token_embeddings(len(tokenizer) + 5, mean_resizing=False)
    TokenRows(token(), tokenizer, encoder, class_word="heart", seed=0)
    assert encoder.get_input_embeddings().weight.shape[0] == len(tokenizer) + 4  # which is one longer by now


def test_the_norm_is_kept(tiny_sd):
    rows = TokenRows(token(num_vectors=2), *text_parts(tiny_sd), class_word="heart", seed=0)
    with torch.no_grad():
        rows.rows.mul_(3).add_(0.1)
    direction = rows.rows / rows.rows.norm(dim=1, keepdim=True)
    rows.keep_norm()
    torch.testing.assert_close(rows.rows.norm(dim=1), word_row(tiny_sd, "heart").norm().expand(2))
    torch.testing.assert_close(rows.rows / rows.rows.norm(dim=1, keepdim=True), direction)


@pytest.mark.parametrize("kind", [CLIPTextModel, CLIPTextModelWithProjection])
def test_the_text_is_pooled_at_its_real_end(tiny_sd, kind):
    """Where the config says `eos_token_id: 2`, as Stable Diffusion 1.5's does, the largest id would be pooled."""
    torch.manual_seed(0)
    tokenizer, _ = text_parts(tiny_sd)
    config = CLIPTextConfig.from_pretrained(tiny_sd / "text_encoder")
    config.eos_token_id = 2
    encoder = kind(config).eval()

    def pooled(text):
        ids = tokenizer(text, return_tensors="pt").input_ids
        found = encoder(ids)
        at_end = found.last_hidden_state[:, (ids[0] == tokenizer.eos_token_id).nonzero()[0, 0]]
        if kind is CLIPTextModel:
            return found.pooler_output, at_end
        return found.text_embeds, encoder.text_projection(at_end)

    before = pooled("a red heart")
    torch.testing.assert_close(*before)
    TokenRows(token(), tokenizer, encoder, class_word="heart", seed=0)
    torch.testing.assert_close(*pooled("a <subject> on the left"))
    torch.testing.assert_close(pooled("a red heart"), before)
    for module in encoder.modules():  # the trap itself: without the correction it would be the token's state
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = 2
    assert not torch.allclose(*pooled("a <subject> on the left"))
    pool_at_eos(tokenizer, encoder)
    torch.testing.assert_close(*pooled("a <subject> on the left"))


# ---- runs


def test_textual_inversion_trains_the_row_and_nothing_else(monkeypatch, tiny_sd, tmp_path, students):
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", *INVERSION)
    (learned,) = embeds(run_dir).items()
    assert learned[0] == "<subject>" and learned[1].shape == (1, 32)
    start = word_row(tiny_sd, "heart")
    assert not torch.allclose(learned[1][0], start, atol=1e-3)
    torch.testing.assert_close(learned[1][0].norm(), start.norm())
    assert list(checkpoint(run_dir / "checkpoints/last.ckpt")["state_dict"]) == ["token_rows.text_encoder.rows"]
    assert not (run_dir / "adapter").exists() and not (run_dir / "unet").exists()

    (student,) = students
    tokenizer, pretrained = text_parts(tiny_sd)
    trained = student.model.pipeline.text_encoder
    weight = trained.get_input_embeddings().weight
    assert torch.equal(weight[: len(tokenizer)], pretrained.get_input_embeddings().weight)
    ids = tokenizer("a photo of a heart", return_tensors="pt").input_ids
    assert torch.equal(trained(ids)[0], pretrained(ids)[0])
    before = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None, requires_safety_checker=False).unet
    assert same(dict(student.denoiser.state_dict()), dict(before.state_dict()))
    # The held-out loss is that of the row as it is now.
    curves = read_metrics(run_dir / "metrics.csv")
    heldout = [points for name, points in curves.items() if name.startswith("heldout/relative_loss")]
    assert heldout and all(points[0][1] != points[1][1] for points in heldout)


@pytest.mark.parametrize("extra", [[], ["model.dtype=bfloat16"]], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("overrides", [INVERSION, BESIDE_LORA], ids=["alone", "beside LoRA"])
def test_the_row_moves_under_bf16_autocast(monkeypatch, tiny_sd, tmp_path, overrides, extra):
    """By more than one of the first step's float32 updates, at DCO's own small learning rate."""
    lr = "optimizer.lr=5e-6" if overrides is INVERSION else "token.lr=5e-6"
    run_dir = train(
        monkeypatch, tiny_sd, tmp_path / "run", *overrides, lr, *extra, "trainer.precision=bf16-mixed",
        "optimizer.weight_decay=0",
    )  # fmt: skip
    saved = checkpoint(run_dir / "checkpoints/last.ckpt")["state_dict"]["token_rows.text_encoder.rows"]
    start = word_row(tiny_sd, "heart").to(torch.bfloat16 if extra else torch.float32).float()
    moved = (saved[0] - start).abs()
    assert saved.dtype == torch.float32
    assert 5e-6 < moved.max() < 5e-5 and (moved > 0).float().mean() > 0.9


def test_a_row_without_gradient_is_told(monkeypatch, tiny_sd, tmp_path):
    encode = LivePrompts.__call__
    monkeypatch.setattr(LivePrompts, "__call__", lambda self, index: encode(self, index).map(torch.Tensor.detach))
    with pytest.raises(RuntimeError, match="no gradient in the first step, token_rows"):
        train(monkeypatch, tiny_sd, tmp_path / "run", *BESIDE_LORA)


def test_a_row_that_does_not_move_is_told(monkeypatch, tiny_sd, tmp_path):
    """As in DCO's official script under fp16, which optimises a copy."""
    groups = DiffusionModule.trained_groups

    def copied(self, optimizer):
        *others, rows = groups(self, optimizer)
        return [*others, rows | {"params": [p.detach().clone().requires_grad_() for p in rows["params"]]}]

    monkeypatch.setattr(DiffusionModule, "trained_groups", copied)
    with pytest.raises(RuntimeError, match="did not move in 3 steps, token_rows"):
        train(monkeypatch, tiny_sd, tmp_path / "run", *BESIDE_LORA)


def test_beside_lora_it_has_a_learning_rate_of_its_own(monkeypatch, tiny_sd, tmp_path):
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", *BESIDE_LORA, "optimizer.lr=2e-3")
    saved = checkpoint(run_dir / "checkpoints/last.ckpt")
    assert [group["lr"] for group in saved["optimizer_states"][0]["param_groups"]] == [2e-3, 1e-2]
    kinds = {"lora_" in name or name == "token_rows.text_encoder.rows" for name in saved["state_dict"]}
    assert kinds == {True} and len(saved["state_dict"]) > 1
    assert adapter_weights(run_dir) and embeds(run_dir)


def test_direct_consistency_starts_at_log_2(monkeypatch, tiny_sd, tmp_path):
    """LoRA is zero, and the prompt with the token embeds as the one with the class word (METHODS §2.1)."""
    overrides = ["experiment=dco_dreambooth", "token=learned", "regularizer.direct_consistency.beta=1000"]
    curves = read_metrics(train(monkeypatch, tiny_sd, tmp_path / "run", *overrides) / "metrics.csv")
    losses = [value for _, value in curves["loss/direct_consistency"]]
    assert losses[0] == pytest.approx(math.log(2), abs=2e-5)
    assert abs(losses[1] - losses[0]) > 1e-4


def test_resumed_equals_unbroken(monkeypatch, tiny_sd, tmp_path):
    overrides = [
        *BESIDE_LORA, "token.num_vectors=2", "token.initializer=null", "trainer.val_check_interval=2",
        "callbacks.model_checkpoint.every_n_train_steps=3", "+callbacks.model_checkpoint.save_top_k=-1",
    ]  # fmt: skip
    unbroken = train(monkeypatch, tiny_sd, tmp_path / "unbroken", *overrides, steps=6)
    path = f"ckpt_path='{unbroken}/checkpoints/step_3.ckpt'"
    resumed = train(monkeypatch, tiny_sd, tmp_path / "resumed", *overrides, path, steps=6)
    assert same(embeds(unbroken), embeds(resumed)) and same(adapter_weights(unbroken), adapter_weights(resumed))
    assert (resumed / "metrics.csv").read_bytes() == (unbroken / "metrics.csv").read_bytes()
    with pytest.raises(ValueError, match=r"token\.num_vectors is 1, and 2 in the run"):
        train(monkeypatch, tiny_sd, tmp_path / "other", *overrides, path, "token.num_vectors=1", steps=6)


def test_only_the_students_prompts_are_live(monkeypatch, tiny_sd, tmp_path):
    """One call of the text encoder a step, over the batch's distinct prompts; it never leaves the device."""
    live, moves = [], []
    encode, move = StableDiffusion.encode_tokens, StableDiffusion.move_encoders

    def counting(self, tokens):
        if torch.is_grad_enabled():
            live.append(len(tokens["text_encoder"][0]))
        return encode(self, tokens)

    def recording(self, device, **kwargs):
        moves.append((str(device), kwargs.get("prompts", True)))
        move(self, device, **kwargs)

    monkeypatch.setattr(StableDiffusion, "encode_tokens", counting)
    monkeypatch.setattr(StableDiffusion, "move_encoders", recording)
    overrides = ["experiment=apt_dreambooth", "token=learned", "token.lr=1e-2", "module.augmentation.bank=2"]
    train(monkeypatch, tiny_sd, tmp_path / "run", *overrides)
    assert live == [1] * 4  # two pictures a batch, with one prompt
    assert moves[0] == ("cpu", True) and [leaves for _, leaves in moves[1:]].count(False) == 2  # the first one arrives


def test_without_a_token_no_text_encoder_runs_in_a_step(monkeypatch, tiny_sd, tmp_path, students):
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=dreambooth")
    (student,) = students
    assert student._live_prompts is None and not list(student.token_rows)
    assert not (run_dir / "learned_embeds.safetensors").exists()
    assert len(student.model.pipeline.tokenizer) == len(text_parts(tiny_sd)[0])


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiment=dreambooth_prior", "regularizer.prior_preservation.num_class_images=2"],
        ["experiment=dco_dreambooth", "token.num_vectors=2", "data.replaces_class_word=false"],
        ["experiment=dreambooth", "+trainer.accumulate_grad_batches=2", "lr_scheduler=cosine"],
    ],
)
def test_it_goes_with_the_others(monkeypatch, tiny_sd, tmp_path, overrides):
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", *overrides, "token=learned", "token.lr=1e-2")
    start = word_row(tiny_sd, "heart")
    rows = embeds(run_dir)["<subject>"]
    torch.testing.assert_close(rows.norm(dim=1), start.norm().expand(len(rows)))
    assert all(not torch.allclose(row, start, atol=1e-3) for row in rows)


def test_gradient_checkpointing_changes_nothing(monkeypatch, tiny_sd, tmp_path):
    """Nothing of the UNet requires a gradient, which must pass through it all the same."""
    runs = [
        train(monkeypatch, tiny_sd, tmp_path / value, *INVERSION, f"model.gradient_checkpointing={value}")
        for value in ("true", "false")
    ]
    torch.testing.assert_close(*(embeds(run_dir)["<subject>"] for run_dir in runs))


@pytest.mark.parametrize(
    ("overrides", "num_vectors"),
    [
        (INVERSION, 1),
        ([*INVERSION, "token.num_vectors=3", "token.initializer=null"], 3),
        (["experiment=apt_dreambooth", "token=learned", "token.lr=1e-2", "token.num_vectors=2"], 2),
        (["experiment=dreambooth", "adapter=full", "token=learned", "token.lr=1e-2", "optimizer.lr=1e-4"], 1),
    ],
)
def test_plain_diffusers_draws_the_same_picture(monkeypatch, tiny_sd, tmp_path, overrides, num_vectors):
    prompt, seed = "a photo of a <subject> on a pink background", 5
    run_dir = train(
        monkeypatch, tiny_sd, tmp_path / "run", *overrides, "model.num_inference_steps=4", "model.guidance_scale=3"
    )
    out_dir = tmp_path / "sampled"
    run.sample(
        compose(out_dir, "task=sample", f"run='{run_dir}'", f"prompts=['{prompt}']", f"evaluation.seed={seed}"), out_dir
    )

    def draw(text):
        generator = torch.Generator().manual_seed(seed)
        settings = {"num_inference_steps": 4, "guidance_scale": 3.0, "height": 32, "width": 32}
        return np.asarray(pipeline(text, generator=generator, **settings).images[0]) / 255

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    base = draw(prompt.replace("<subject>", "heart"))
    pipeline.load_textual_inversion(run_dir / "learned_embeds.safetensors")
    if (run_dir / "adapter").exists():
        pipeline.load_lora_weights(run_dir / "adapter")
    if (run_dir / "unet").exists():
        pipeline.unet = type(pipeline.unet).from_pretrained(run_dir / "unet")
    assert embeds(run_dir)["<subject>"].shape[0] == num_vectors
    tuned = draw(prompt)
    difference = np.abs(tuned - array(Image.open(out_dir / "00-0.png")))
    assert difference.max() < 1.5 / 255 and (difference > 0).mean() < 0.01  # one level, where another sum rounds
    assert (np.abs(tuned - base) > 0).mean() > 0.1
    with pytest.raises(ValueError, match="already in tokenizer vocabulary"):
        token(num_vectors=num_vectors).load(pipeline, run_dir)


def test_a_run_without_its_embeddings_is_refused_at_once(monkeypatch, tiny_sd, tmp_path):
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", *INVERSION)
    (run_dir / "learned_embeds.safetensors").unlink()
    monkeypatch.setattr("tasks.finished.load", None)
    monkeypatch.setattr("tasks.sample.load", None)
    for task in ("sample", "evaluate"):
        with pytest.raises(FileNotFoundError, match=r"learned_embeds\.safetensors, which holds <subject>, is missing"):
            getattr(run, task)(compose(tmp_path / task, f"task={task}", f"run='{run_dir}'"), tmp_path / task)


def test_a_prompt_that_the_vectors_make_too_long_is_refused(monkeypatch, tiny_sd, tmp_path):
    with pytest.raises(ValueError, match=r"has \d+ tokens, 30 are read"):
        train(monkeypatch, tiny_sd, tmp_path / "run", *INVERSION, "token.num_vectors=28")


def test_the_token_is_named_in_one_place(tiny_sd, tmp_path):
    cfg = compose(tmp_path, *cheap(tiny_sd, tmp_path), *INVERSION, 'token.placeholder="<heart>"')
    assert check(cfg).train[0].prompts.instance == "a photo of a <heart>"
