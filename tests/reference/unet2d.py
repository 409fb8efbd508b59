#!/usr/bin/env python3
"""Numbers of diffusers' own UNet2DModel for unet2d_test.cpp: tiny networks with random
weights (of float16, to keep the files small), their answers in float64, and derivatives
along (dx, dt) by central differences.
Usage: unet2d.py FOLDER, which gets unet2d_*.safetensors.

Made with diffusers 0.42.1, torch 2.11.0, Python 3.11. diffusers has the sines of time in
float32 whatever the network's type; here they are computed in float64 by the same formula,
so that what is compared is not that rounding.
"""
import json
import math
import pathlib
import sys

import diffusers
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

COMMON = {"in_channels": 2, "out_channels": 2, "sample_size": 8, "block_out_channels": [4, 8],
          "norm_num_groups": 2}
CASES = {
    # As the networks of Ho et al. 2020 (google/ddpm-cifar10-32) are.
    "ddpm": {**COMMON, "layers_per_block": 1, "down_block_types": ["DownBlock2D",
             "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
             "attention_head_dim": None, "norm_eps": 1e-6, "flip_sin_to_cos": False,
             "freq_shift": 1, "downsample_padding": 0},
    # Labels, heads, scale and shift; the middle's attention has no norm then.
    "labels": {**COMMON, "layers_per_block": 1, "down_block_types": ["AttnDownBlock2D",
               "DownBlock2D"], "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
               "attention_head_dim": 4, "num_class_embeds": 3, "center_input_sample": True,
               "resnet_time_scale_shift": "scale_shift", "out_channels": 3,
               "mid_block_scale_factor": 1.25},
    # Without attention anywhere.
    "plain": {**COMMON, "layers_per_block": 2, "down_block_types": ["DownBlock2D",
              "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"],
              "block_out_channels": [4, 4], "add_attention": False, "time_embedding_dim": 20,
              "norm_eps": 1e-3},
}


class ExactTimesteps(torch.nn.Module):
    def __init__(self, channels, flip, shift):
        super().__init__()
        self.channels, self.flip, self.shift = channels, flip, shift

    def forward(self, time):
        half = self.channels // 2
        k = torch.arange(half, dtype=torch.float64)
        angle = time[:, None] * torch.exp(-math.log(10000) * k / (half - self.shift))[None]
        parts = [angle.sin(), angle.cos()]
        return torch.cat(parts[::-1] if self.flip else parts, 1)


def make(folder, name, config):
    torch.manual_seed(sum(map(ord, name)))
    model = UNet2DModel(**config).eval()
    for parameter in model.parameters():  # norms and biases away from one and zero, too
        parameter.data += 0.1 * torch.randn_like(parameter)
    model = model.half()
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    model = model.double()
    c = model.config
    model.time_proj = ExactTimesteps(c.block_out_channels[0], c.flip_sin_to_cos, c.freq_shift)
    batch = 2
    x, dx = (torch.randn(batch, 2, 8, 8, dtype=torch.float64) for _ in range(2))
    time = torch.tensor([3.0, 750.25], dtype=torch.float64)
    dt = torch.tensor([1.0, -2.0], dtype=torch.float64)
    labels = torch.tensor([2, 0]) if c.num_class_embeds else None

    def answer(step):
        with torch.no_grad():
            return model(x + step * dx, time + step * dt, class_labels=labels).sample

    def slope(h):  # of sixth order
        return sum(a * (answer(i * h) - answer(-i * h))
                   for i, a in ((1, 45), (2, -9), (3, 1))) / (60 * h)

    tensors = {**weights, "input.x": x, "input.dx": dx, "input.time": time, "input.dt": dt,
               "output": answer(0), "jvp": slope(2e-3)}
    error = (slope(4e-3) - tensors["jvp"]).abs().max() / tensors["jvp"].abs().max()
    if labels is not None:
        tensors["input.labels"] = labels
    metadata = {"config": json.dumps({k: v for k, v in c.items() if not k.startswith("_")}),
                "state_order": json.dumps(list(weights)),
                "made_by": f"diffusers {diffusers.__version__}, torch {torch.__version__}"}
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    path = folder / f"unet2d_{name}.safetensors"
    save_file(tensors, path, metadata)
    count = sum(p.numel() for p in model.parameters())
    print(f"{path.name}: {count} parameters, {path.stat().st_size} bytes, "
          f"difference of steps {error:.1e}")


for name, config in CASES.items():
    make(pathlib.Path(sys.argv[1]), name, config)
