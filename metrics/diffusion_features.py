"""Features of pictures in the frozen diffusion model itself: nothing to download."""

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import Tensor


@torch.no_grad()
def diffusion_features(pipeline: StableDiffusionPipeline, pictures: Tensor, *, batch_size: int) -> Tensor:
    """Features `[N, D]` of uint8 pictures `[N, 3, H, W]`: the second decoder block at a tenth of the noise steps.

    As in DIFT (arXiv:2306.03881), with an empty prompt; the mean over space is ours. `pipeline` must be the pretrained
    one, or the tuned model would judge itself. The noise is the same for every picture.
    """
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    vae, unet = pipeline.vae, pipeline.unet
    states, _ = pipeline.encode_prompt("", pipeline.device, 1, do_classifier_free_guidance=False)
    timestep = torch.tensor([scheduler.config.num_train_timesteps // 10])
    features: list[Tensor] = []
    hook = unet.up_blocks[1].register_forward_hook(lambda module, args, output: features.append(output.mean((2, 3))))
    try:
        for chunk in pictures.split(batch_size):
            latents = vae.encode(chunk.to(vae.device, vae.dtype).div(127.5).sub(1)).latent_dist.mean
            latents = latents * vae.config.scaling_factor
            noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(0)).to(latents)
            noisy = scheduler.add_noise(latents, noise.expand_as(latents), timestep)
            unet(noisy, timestep.to(unet.device), encoder_hidden_states=states.expand(len(noisy), -1, -1))
    finally:
        hook.remove()
    return torch.cat(features).float()
