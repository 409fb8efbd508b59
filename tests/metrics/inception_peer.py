"""The 2015 Inception in plain PyTorch, for tests/metrics/inception_test.cpp.

usage: inception_peer.py FOLDER

Reads FOLDER/torchvision.pth (torchvision's names, batch norm apart), FOLDER/names.txt
(lines "torchvision's name, dotted name of NVIDIA's module, stride, padding y, padding x")
and FOLDER/input.pt, and writes FOLDER/script.pt, a TorchScript archive with NVIDIA's module
names, and FOLDER/expected.pt, the features computed here.
"""

import sys

import torch
import torch.nn.functional as F


class Convolution(torch.nn.Module):
    def __init__(self, weight, beta, mean, var, stride: int, pad_y: int, pad_x: int):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)
        self.beta = torch.nn.Parameter(beta)
        self.register_buffer("mean", mean)
        self.register_buffer("var", var)
        self.stride, self.pad_y, self.pad_x = stride, pad_y, pad_x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(x, self.weight, None, self.stride, [self.pad_y, self.pad_x])
        return F.relu(F.batch_norm(x, self.mean, self.var, None, self.beta, False, 0.1, 1e-3))


class Group(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def features(conv, x):
    """conv(name, x): a convolution with batch norm and ReLU, by torchvision's name."""
    def chain(block, branch, count, x):
        for i in range(1, count + 1):
            x = conv(f"{block}.{branch}_{i}", x)
        return x

    def average(x):
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"):
        x = conv(name, x)
    x = F.max_pool2d(x, 3, 2)
    for name in ("Conv2d_3b_1x1", "Conv2d_4a_3x3"):
        x = conv(name, x)
    x = F.max_pool2d(x, 3, 2)
    for b in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = torch.cat([conv(b + ".branch1x1", x), chain(b, "branch5x5", 2, x),
                       chain(b, "branch3x3dbl", 3, x), conv(b + ".branch_pool", average(x))], 1)
    x = torch.cat([conv("Mixed_6a.branch3x3", x), chain("Mixed_6a", "branch3x3dbl", 3, x),
                   F.max_pool2d(x, 3, 2)], 1)
    for b in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = torch.cat([conv(b + ".branch1x1", x), chain(b, "branch7x7", 3, x),
                       chain(b, "branch7x7dbl", 5, x), conv(b + ".branch_pool", average(x))], 1)
    middle = x.mean((2, 3))
    x = torch.cat([chain("Mixed_7a", "branch3x3", 2, x), chain("Mixed_7a", "branch7x7x3", 4, x),
                   F.max_pool2d(x, 3, 2)], 1)
    for b in ("Mixed_7b", "Mixed_7c"):
        pooled = average(x) if b == "Mixed_7b" else F.max_pool2d(x, 3, 1, 1)
        one, two = conv(b + ".branch3x3_1", x), chain(b, "branch3x3dbl", 2, x)
        x = torch.cat([conv(b + ".branch1x1", x),
                       conv(b + ".branch3x3_2a", one), conv(b + ".branch3x3_2b", one),
                       conv(b + ".branch3x3dbl_3a", two), conv(b + ".branch3x3dbl_3b", two),
                       conv(b + ".branch_pool", pooled)], 1)
    return middle, x.mean((2, 3))


def main(folder):
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    weights = torch.load(folder + "/torchvision.pth", weights_only=True)
    root, convolutions = Group(), {}
    root.add_module("layers", Group())
    for line in open(folder + "/names.txt"):
        torchvision, dotted, *numbers = line.split()
        get = lambda part: weights[f"{torchvision}.{part}"]
        made = Convolution(get("conv.weight"), get("bn.bias"), get("bn.running_mean"),
                           get("bn.running_var"), *map(int, numbers))
        convolutions[torchvision] = made
        parent = root.layers
        *path, last = dotted.split(".")
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, Group())
            parent = getattr(parent, part)
        parent.add_module(last, made)
    root.output = torch.nn.Linear(2048, 1008)
    root.output.weight.copy_(weights["fc.weight"])
    root.output.bias.copy_(weights["fc.bias"])
    torch.jit.script(root.eval()).save(folder + "/script.pt")

    x = torch.load(folder + "/input.pt", weights_only=True)["input"]
    middle, pooled = features(lambda name, x: convolutions[name](x), x)
    logits = F.linear(pooled, weights["fc.weight"], weights["fc.bias"])
    torch.save({"768": middle, "2048": pooled, "logits": logits}, folder + "/expected.pt")


if __name__ == "__main__":
    main(sys.argv[1])
