"""Every figure of `docs/benchmarks/methods.md` is read off files: these are of known pictures."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.shared.rendered_as_asked import rendered_as_asked
from benchmarks.shared.scores import Scores

SUBJECT, PROMPTS, COPIES = "heart_face", 6, 2  # the sixth prompt repaints the subject


@pytest.fixture(scope="module")
def scores():
    return Scores(PROMPTS)


@pytest.fixture(scope="module")
def read(scores, tmp_path_factory):
    """Step 0 shows what was asked, but for the second copy of prompt 4, which is empty; step 1 is training pictures."""
    root = tmp_path_factory.mktemp("run")
    _, rendered = rendered_as_asked([SUBJECT], num_prompts=PROMPTS, copies=COPIES)
    train = [np.asarray(each.image) for each in scores.subject(SUBJECT).train]
    for step in (0, 1):
        (root / f"{step}").mkdir()
        for number in range(PROMPTS * COPIES):
            prompt, copy = divmod(number, COPIES)
            picture = train[number % len(train)] if step else rendered[number]
            if (step, prompt, copy) == (0, 4, 1):
                picture = np.full_like(picture, 255)
            Image.fromarray(picture).save(root / f"{step}" / f"{prompt:02d}-{copy}.png")
    return scores.of([root / "0", root / "1"], SUBJECT, COPIES)


def test_adherence_is_that_of_the_step_the_prompt_and_the_copy(read):
    expected = np.ones((PROMPTS, COPIES))
    expected[4, 1] = 0
    assert (read.adherence[0] == expected).all()
    assert ((read.shares[0] == 1) == expected).all()
    assert not read.adherence[1, 0].any()  # a training picture is on no black background


def test_identity_leaves_prompts_out_that_repaint(read):
    assert np.isnan(read.identity[:, 5]).all() and np.isfinite(read.identity[:, :5]).all()
    assert read.identity[1, :5].min() > 0.9 > read.identity[0, 4, 1]


def test_copies_of_training_pictures_are_nearest_to_themselves(read):
    assert read.nearest[1] == pytest.approx(1, abs=1e-5)
    assert read.nearest[0].max() < 0.99


def test_a_curve_is_the_mean_over_prompts_and_the_copies_asked_for(read):
    identity, adherence = read.curve(slice(1, None))
    assert adherence[0] == pytest.approx(5 / 6)
    assert identity[0] == pytest.approx(np.mean(read.identity[0, :5, 1]))


def test_real_pictures_are_the_ceiling(scores):
    ceilings = scores.ceilings([SUBJECT])
    assert ceilings["adherence"] > 0.98 and 0.9 < ceilings["identity"] < 1 and 0 < ceilings["nearest"] < 1
