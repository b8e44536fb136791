"""What a run is, is read off its module's class, wherever that is written."""

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from checks.arguments import class_attribute
from checks.kind import kind_of, trains_nothing
from tests.tiny import ROOT

TARGETS = sorted({str(OmegaConf.load(path)["_target_"]) for path in (ROOT / "conf/module").glob("*.yaml")})


@pytest.mark.parametrize("target", TARGETS)
def test_as_python_sees_it(target):
    assert kind_of(OmegaConf.create({"module": {"_target_": target}})) == get_object(target).kind


def test_a_class_elsewhere_inherits_it_by_any_way_of_importing(monkeypatch, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/__init__.py").write_text("from mine.classifier import Mine\n")
    (tmp_path / "mine/classifier.py").write_text(
        "from lightning_modules.gta_vit import GTAViTModule as Base\nraise SystemExit('imported')\n"
        "class Middle(Base):\n    serves = frozenset()\nclass Mine(Middle):\n    pass\n"
        "class Other(Middle):\n    kind = 'pretraining'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert class_attribute("mine.classifier.Mine", "kind") == class_attribute("mine.Mine", "kind") == "classification"
    assert class_attribute("mine.classifier.Other", "kind") == "pretraining"


@pytest.mark.parametrize("name", ["APTDiffusionModule", "DCORescaleModule", "GTAViTModule", "ClassificationModule"])
def test_the_package_s_own_names_are_followed(monkeypatch, tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/__init__.py").write_text("from .module import Mine\n")
    (tmp_path / "mine/module.py").write_text(f"from lightning_modules import {name}\nclass Mine({name}):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    expected = get_object(f"lightning_modules.{name}").kind
    assert class_attribute(f"lightning_modules.{name}", "kind") == class_attribute("mine.Mine", "kind") == expected


@pytest.mark.parametrize("target", ["nowhere.Nothing", "torch.nn.Linear", "models.adapters.LoRA"])
def test_a_class_that_does_not_say_it_is_refused(target):
    with pytest.raises(ValueError, match=rf"module\._target_={target} does not say.*personalisation, classification"):
        kind_of(OmegaConf.create({"module": {"_target_": target}}))


@pytest.mark.parametrize(("adapter", "expected"), [("NoAdapter", True), ("LoRA", False), ("FullFineTuning", False)])
def test_which_adapter_trains_nothing(adapter, expected):
    assert trains_nothing(OmegaConf.create({"_target_": f"models.adapters.{adapter}"})) is expected
