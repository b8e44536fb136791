"""What is refused of a composed config."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from checks.config import check
from tests.runs import compose


@pytest.mark.parametrize("node", ["regularizer.mine", "callbacks.mine", "logger.mine", "optimizer", "adapter"])
def test_a_node_without_target_is_refused_by_name(tmp_path: Path, node: str) -> None:
    cfg = compose(tmp_path)
    OmegaConf.update(cfg, node, {"weight": 1.0}, force_add=True, merge=False)
    with pytest.raises(ValueError, match=f"{node} has no _target_"):
        check(cfg)
