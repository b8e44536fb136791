import weakref

import pytest
import torch
from torch import nn

from models.capture import Capture, Captured, matching_submodules, resolve_sites


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ModuleList([nn.ModuleDict({"attn1": nn.Linear(2, 2), "attn2": nn.Linear(2, 2)}) for _ in range(3)])
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        for block in self.up:
            x = block["attn2"](block["attn1"](x))
        return x


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["*.attn1"], ["up.0.attn1", "up.1.attn1", "up.2.attn1"]),
        (["up.2.attn2", "up.[01].attn2"], ["up.0.attn2", "up.1.attn2", "up.2.attn2"]),  # the model's order
        (["up.1.*", "*.1.attn1"], ["up.1.attn1", "up.1.attn2"]),  # each once
        (["up.*.attn2[last]", "up.0.attn1"], ["up.0.attn1", "up.2.attn2"]),
        ([], []),
    ],
)
def test_names(model, patterns, names):
    assert matching_submodules(model, patterns) == names
    assert Capture(model, patterns).names == names


def test_unknown_pattern_is_named_with_names_that_exist(model):
    with pytest.raises(ValueError, match=r"'mid\.\*\.attn1' matches no submodule of Model.* up\.") as error:
        Capture(model, ["up.*", "mid.*.attn1"])
    assert str(error.value).split("like ")[1].split(", ")[0] in dict(model.named_modules())


def test_records_outputs_only_while_recording(model):
    capture = Capture(model, ["up.0.attn1", "up.2.*"])
    outside, inside = torch.randn(1, 2), torch.randn(1, 2)
    model(outside)
    with capture.recording() as captured:
        output = model(inside)
    assert captured.keys() == {"up.0.attn1", "up.2.attn1", "up.2.attn2"}
    assert captured["up.2.attn2"] is output
    torch.testing.assert_close(captured["up.0.attn1"], model.up[0]["attn1"](inside))
    model(outside)
    assert captured["up.2.attn2"] is output


def test_keeps_no_output_alive(model):
    capture = Capture(model, ["up.2.attn2"])

    def is_alive():
        return weakref.ref(model(torch.zeros(1, 2)))() is not None

    assert not is_alive()
    with capture.recording():
        assert is_alive()
    assert not is_alive()


def test_each_recording_stands_for_itself(model):
    capture = Capture(model, ["up.0.attn1"])
    results = []
    for x in (torch.zeros(1, 2), torch.ones(1, 2)):
        with capture.recording() as captured:
            model(x)
        results.append(captured)
    torch.testing.assert_close(results[0]["up.0.attn1"], model.up[0]["attn1"].bias[None])
    torch.testing.assert_close(results[1]["up.0.attn1"], model.up[0]["attn1"](torch.ones(1, 2)))


def test_a_silent_site_is_named(model):
    capture = Capture(model, ["up.0.attn1", "unused"])
    with pytest.raises(RuntimeError, match="unused was not called"), capture.recording():
        model(torch.zeros(1, 2))
    # An earlier recording cannot fill in for a forward that never came.
    capture = Capture(model, ["up.0.attn1"])
    with capture.recording():
        model(torch.zeros(1, 2))
    with pytest.raises(RuntimeError, match=r"up\.0\.attn1 was not called"), capture.recording():
        pass


def test_an_error_in_the_forward_is_not_hidden_and_ends_the_recording(model):
    capture = Capture(model, ["up.0.attn1"])
    with pytest.raises(ZeroDivisionError), capture.recording() as captured:
        _ = 1 / 0
    model(torch.zeros(1, 2))
    assert captured == {}


def test_no_hooks_without_sites(model):
    capture = Capture(model, [])
    assert not any(module._forward_hooks for module in model.modules())
    with capture.recording() as captured:
        model(torch.zeros(1, 2))
    assert captured == {}
    Capture(model, ["up.0.attn1"])
    assert [name for name, module in model.named_modules() if module._forward_hooks] == ["up.0.attn1"]


def test_a_symbolic_name_stands_for_its_patterns_and_anything_else_for_itself():
    symbolic = {"text": ("up.*.attn2", "mid.attn2"), "other": ("x",)}
    assert resolve_sites(["text", "up.0.*"], symbolic) == {"text": ("up.*.attn2", "mid.attn2"), "up.0.*": ("up.0.*",)}


def test_a_plug_in_finds_its_sites_as_it_named_them(model):
    capture = Capture(model, ["text", "up.0.*", "up.*.attn1[last]"], {"text": ("up.2.attn2", "up.0.attn2")})
    with capture.recording() as captured:
        model(torch.zeros(1, 2))
    assert list(captured) == ["up.0.attn1", "up.0.attn2", "up.2.attn1", "up.2.attn2"]
    assert list(captured.at(["text"])) == ["up.0.attn2", "up.2.attn2"]
    assert list(captured.at(["up.*.attn1[last]", "up.0.*"])) == ["up.0.attn1", "up.0.attn2", "up.2.attn1"]
    assert captured.at(["text"])["up.2.attn2"] is captured["up.2.attn2"]
    with pytest.raises(KeyError, match=r"up\.2\.attn2"):  # nobody asked for it by this name
        captured.at(["up.2.attn2"])
    assert Captured().at([]) == {}
