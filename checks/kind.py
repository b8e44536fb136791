"""What a run is: personalisation, classification or pretraining, as the class of its module says; no torch."""

from omegaconf import DictConfig

from checks.arguments import class_attribute

KINDS = ("personalisation", "classification", "pretraining")


def kind_of(cfg: DictConfig) -> str:
    """The attribute `kind` of the class that `module` names.

    Raises:
        ValueError: there is no module, or its class says none of `KINDS`.
    """
    target = cfg.module._target_ if cfg.get("module") else None
    kind = class_attribute(target, "kind") if target else None
    if kind not in KINDS:
        raise ValueError(
            f"module._target_={target} does not say what a run of it is: derive it from a module of lightning_modules, "
            f"or give the class kind: ClassVar[str] = one of {', '.join(KINDS)}"
        )
    return str(kind)


def is_classifier(cfg: DictConfig) -> bool:
    """Whether a run classifies pictures, rather than drawing them."""
    return kind_of(cfg) == "classification"


def trains_nothing(adapter: DictConfig | None) -> bool:
    """Whether the class of the adapter says that it trains no weights of the model."""
    return adapter is not None and bool(class_attribute(adapter._target_, "trains_nothing"))
