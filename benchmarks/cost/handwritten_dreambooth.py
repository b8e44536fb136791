"""DreamBooth with LoRA as one writes it by hand with diffusers and PEFT: the yardstick of `step.py`."""

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from peft import LoraConfig
from torch.nn import functional as F


class HandwrittenDreamBooth:
    """`step()` is one whole training step; pictures (uint8 `[N, 3, H, W]`) and prompts are encoded beforehand."""

    def __init__(self, folder, pictures, prompts, *, lora, lr, weight_decay, batch_size, device):
        pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, safety_checker=None).to(device)
        pipe.vae.requires_grad_(False)
        pipe.text_encoder.requires_grad_(False)
        self.unet = pipe.unet.to(memory_format=torch.channels_last).requires_grad_(False).train()
        self.unet.add_adapter(LoraConfig(**lora))
        self.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        self.scaling, self.batch_size, self.device = pipe.vae.config.scaling_factor, batch_size, device
        with torch.no_grad():
            pixels = pictures.to(device) / 127.5 - 1
            self.moments = torch.cat([pipe.vae.encode(p).latent_dist.parameters for p in pixels.split(8)])
            length = pipe.tokenizer.model_max_length
            tokens = pipe.tokenizer(
                prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            self.states = pipe.text_encoder(tokens.input_ids.to(device))[0]
        trained = [p for p in self.unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)

    def draw(self):
        index = torch.randint(len(self.moments), (self.batch_size,), device=self.device)
        latents = DiagonalGaussianDistribution(self.moments[index]).sample() * self.scaling
        timesteps = torch.randint(self.scheduler.config.num_train_timesteps, (self.batch_size,), device=self.device)
        noise = torch.randn_like(latents)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = noise
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(latents, noise, timesteps)
        return noisy, timesteps, self.states[index], target

    def step(self):
        noisy, timesteps, states, target = self.draw()
        prediction = self.unet(noisy, timesteps, encoder_hidden_states=states).sample
        loss = F.mse_loss(prediction.float(), target.float())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
