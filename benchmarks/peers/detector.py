"""pytorch-fid's network and clean-fid's resizer, for benchmarks/compare_detector.

usage: detector.py WEIGHTS BATCH EDGE THREADS

Writes random weights to WEIGHTS where there are none (the published file does as well).
One command a line on the standard input, its seconds on the standard output: all, resize,
clean (clean-fid's resizer alone), features FILE.
"""

import sys
import time

import torch
from pytorch_fid import inception

weights, batch, edge, threads = sys.argv[1], *map(int, sys.argv[2:5])
torch.set_num_threads(threads)
torch.set_grad_enabled(False)
torch.manual_seed(0)

try:
    state = torch.load(weights, weights_only=True)
except FileNotFoundError:
    made = []
    inception.load_state_dict_from_url = lambda *_, **__: made[0].state_dict()
    build = inception._inception_v3
    inception._inception_v3 = lambda *a, **k: (made.append(build(*a, **k)), made[-1])[1]
    network = inception.fid_inception_v3()
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    for name, weight in network.named_parameters():
        if weight.dim() == 4:
            weight.normal_(0, (2 / weight[0].numel()) ** 0.5)
    state = network.state_dict()
    torch.save(state, weights)
    inception._inception_v3 = build
inception.load_state_dict_from_url = lambda *_, **__: state
model = inception.InceptionV3([3]).eval()

numbers = torch.arange(batch * 3 * edge * edge) * 2654435761 % 251
pictures = numbers.to(torch.uint8).view(batch, 3, edge, edge)


def features():
    return model(pictures.float() / 255)[0].flatten(1)


def resize():
    x = torch.nn.functional.interpolate(pictures.float() / 255, size=(299, 299),
                                        mode="bilinear", align_corners=False)
    return 2 * x - 1


def clean():
    from cleanfid.resize import make_resizer
    resizer = make_resizer("PIL", False, "bicubic", (299, 299))
    for picture in pictures.permute(0, 2, 3, 1).numpy():
        resizer(picture)


work = {"all": features, "resize": resize, "clean": clean}
features()
print("ready", flush=True)
for line in sys.stdin:
    command, *rest = line.split()
    if command == "features":
        from safetensors.torch import save_file
        save_file({"2048": features().contiguous()}, rest[0])
        print(0, flush=True)
        continue
    start = time.perf_counter()
    work[command]()
    print(time.perf_counter() - start, flush=True)
