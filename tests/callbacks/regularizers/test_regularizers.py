from dataclasses import fields

import pytest
import torch

from callbacks.regularizer import Regularizer
from callbacks.regularizers.denoising import Denoising
from callbacks.regularizers.min_snr import MinSNR
from callbacks.regularizers.prior_preservation import PriorPreservation
from callbacks.regularizers.representation_stabilization import RepresentationStabilization
from callbacks.step import DiffusionStep, Needs
from lightning_modules.regularized import RegularizedModule, active_regularizers


class Idle(Regularizer):
    def attach(self, model):
        """Looks at the model, but has no effect on a step."""

    def metrics(self):
        return {"idle": 1.0}


class Module(RegularizedModule):
    step_type = DiffusionStep
    serves = frozenset(field.name for field in fields(Needs))

    def make_step(self, batch):
        raise NotImplementedError

    def describe(self, batch):
        raise NotImplementedError


def stabilization(weight):
    return RepresentationStabilization(weight=weight, sites=["up_blocks.*.attn1"])


def needs_of(**regularizers):
    return Module(regularizers=regularizers, optimizer=torch.optim.SGD, lr_scheduler=None).needs


def test_named_by_their_keys_and_in_the_order_of_names():
    plugins = {"zeta": MinSNR(gamma=5), "denoising": Denoising(), "alpha": MinSNR(gamma=1)}
    active = active_regularizers(plugins)
    assert list(active) == ["alpha", "denoising", "zeta"]
    assert all(active[name] is plugin and plugin.name == name for name, plugin in plugins.items())
    # Two of one class keep a state each.
    assert len({plugin.state_key for plugin in active.values()}) == 3


def test_weight_zero_is_left_out_with_its_needs():
    off = {"stabilization": stabilization(0), "prior": PriorPreservation(weight=0, num_class_images=9)}
    assert list(active_regularizers({"denoising": Denoising(), **off})) == ["denoising"]
    assert needs_of(denoising=Denoising(), **off) == Needs()
    on = {"stabilization": stabilization(0.1), "prior": PriorPreservation(weight=-1, num_class_images=9)}
    sites = frozenset({"up_blocks.*.attn1"})
    assert needs_of(denoising=Denoising(), **on) == Needs(reference=True, sites=sites, class_images=9)


def test_union_of_needs():
    first = Needs(sites=frozenset({"a"}), class_images=3)
    second = Needs(reference=True, sites=frozenset({"b"}), token_columns=True, class_images=2)
    union = Needs(reference=True, sites=frozenset({"a", "b"}), token_columns=True, class_images=3)
    assert first | second == second | first == union
    assert first | Needs() == first


@pytest.mark.parametrize(
    ("regularizers", "message"),
    [
        ({}, "has none"),
        ({"min_snr": MinSNR(gamma=5)}, "exactly one primary term is needed, regularizer has none"),
        ({"denoising": Denoising(weight=0)}, "has none"),
        ({"one": Denoising(), "two": Denoising()}, r"has \['one', 'two'\]"),
        ({"denoising": Denoising(), "idle": Idle()}, r"regularizer\.idle overrides none of .*sample_weight"),
        ({"denoising": Denoising(), "idle": Idle(weight=0)}, r"regularizer\.idle overrides none of"),
        ({"denoising": Denoising(), "typo": {"weight": 1.0}}, r"regularizer\.typo is a dict.*set its _target_"),
        ({"denoising": Denoising(), "typo": None}, r"regularizer\.typo is a NoneType"),
    ],
)
def test_refuses(regularizers, message):
    with pytest.raises(ValueError, match=message):
        active_regularizers(regularizers)
