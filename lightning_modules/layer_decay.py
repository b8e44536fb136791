"""Learning rates of a ViT's parts: a new head learns faster, lower blocks slower where asked."""

from typing import Any

from timm.optim import param_groups_layer_decay

from lightning_modules.vision_transformer import heads


def parameter_groups(
    vit: Any, *, lr: float, weight_decay: float, head_lr_scale: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser over what trains of `vit`; biases, norms and tokens do not decay, as in timm.

    Args:
        lr: of everything where `layer_decay` is 1.
        weight_decay: of matrices.
        head_lr_scale: the head's learning rate is `lr` times this.
        layer_decay: each block's learning rate is this times that of the block above, as in timm, where the head counts
            as the layer above the topmost block; 1 is none.
    """
    head = {id(parameter) for each in heads(vit) for parameter in each.parameters()}
    kept = vit.no_weight_decay() if hasattr(vit, "no_weight_decay") else ()
    groups = param_groups_layer_decay(
        vit, weight_decay=weight_decay, no_weight_decay_list=kept, layer_decay=layer_decay
    )
    split = []
    for group in groups:
        for is_head, rate in ((False, lr * group["lr_scale"]), (True, lr * head_lr_scale)):
            if parameters := [p for p in group["params"] if (id(p) in head) == is_head]:
                split.append({"params": parameters, "lr": rate, "weight_decay": group["weight_decay"]})
    return split
