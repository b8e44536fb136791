"""Holdfast's one entry point: `python run.py experiment=apt_dreambooth`."""

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    import lightning.pytorch as L

    L.seed_everything(cfg.seed, verbose=False)
    module = instantiate(cfg.module)
    datamodule = instantiate(cfg.datamodule)
    trainer = instantiate(cfg.trainer, callbacks=list(instantiate(cfg.callbacks).values()))
    trainer.fit(module, datamodule=datamodule, ckpt_path=cfg.ckpt_path, weights_only=True)


if __name__ == "__main__":
    main()
