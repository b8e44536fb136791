"""What is read off the sources is what the classes take: compared with Python's own account of every node's class."""

import inspect

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

import run
from checks.arguments import arguments, check_nodes
from tests.runs import compose
from tests.tiny import ROOT

TARGETS = sorted(
    {
        node["_target_"]
        for path in (ROOT / "conf").rglob("*.yaml")
        for node in [OmegaConf.load(path)]
        if "_target_" in node and (ROOT / node["_target_"].split(".")[0]).is_dir()
    }
)


@pytest.mark.parametrize("target", TARGETS)
def test_as_python_sees_it(target):
    named: set[str] = set()
    thing = get_object(target)
    for each in inspect.getmro(thing) if inspect.isclass(thing) else [thing]:
        parameters = inspect.signature(each).parameters.values()
        named |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            break
    found = arguments(target)
    assert found is None or found == named


def test_all_are_found():
    assert len(TARGETS) > 15 and [target for target in TARGETS if arguments(target) is None] == []


def test_a_class_without_arguments_takes_none():
    with pytest.raises(ValueError, match=r"unknown key 'adapter\.foo': .*NoAdapter takes nothing"):
        check_nodes({"adapter": {"_target_": "models.adapters.NoAdapter", "foo": 1}})


def test_what_is_not_ours_is_left_alone():
    assert arguments("torch.optim.AdamW") is None
    check_nodes({"optimizer": {"_target_": "torch.optim.AdamW", "foo": 1}})


@pytest.mark.parametrize("key", ["trainer.foo", "optimizer.foo", "lr_scheduler.foo", "callbacks.model_checkpoint.foo"])
def test_a_library_class_is_asked_before_the_model_is_loaded(monkeypatch, tmp_path, key):
    monkeypatch.setattr("models.families.sd.StableDiffusion.__init__", None)  # would raise TypeError
    with pytest.raises(ValueError, match=f"unknown key '{key}'"):
        run.fit(compose(tmp_path / "run", f"+{key}=1", "logger=csv"), tmp_path / "run")
