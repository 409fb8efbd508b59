"""The networks and steps of benchmarks/networks.cpp in plain eager PyTorch.

Written from this project's own description (lib/flowmap/nn/song_unet.*, unet_block.*,
layers.*, model_flow.cpp), as one writes such a network in Python: torch.nn modules,
torch.nn.functional, torch.func.jvp for the derivative in time. It shows what the same
mathematics costs there, and checks that it is the same mathematics.

  networks.py [--network cifar|demo] [--batch N] [--threads N] [--repeats R] [--json]
  networks.py --serve ...            reads "WHAT PRECISION" lines, answers with seconds
  networks.py --reference FOLDER     against what `bench_networks --reference` wrote
  networks.py --snapshot FILE --flowmap BINARY   against `flowmap evaluate`
"""

import argparse
import json
import math
import pathlib
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import numpy
import torch
from torch import nn
from torch.func import functional_call, jvp
from torch.nn import functional as F

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = ("forward", "forward_backward", "lsd_step", "meanflow_step")
GEMM_SIDE = 2048
GEMM_FLOPS = 2 * GEMM_SIDE**3


# ---- The network ---------------------------------------------------------------------


class Resample(nn.Module):
    """By two, up or down, one box filter a channel."""

    def __init__(self, up):
        super().__init__()
        self.up = up
        self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))

    def forward(self, x):
        channels = x.shape[1]
        taps = self.resample_filter.expand(channels, -1, -1, -1)
        if self.up:
            return F.conv_transpose2d(x, taps * 4, stride=2, groups=channels)
        return F.conv2d(x, taps, stride=2, groups=channels)


class Conv(nn.Module):
    """Resampling (optional), then a convolution that keeps the size."""

    def __init__(self, inputs, outputs, kernel, resample=None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.weight)
        self.resample = None if resample is None else Resample(resample == "up")
        self.padding = kernel // 2

    def forward(self, x):
        if self.resample is not None:
            x = self.resample(x)
        return F.conv2d(x, self.weight, self.bias, padding=self.padding)


class Norm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.groups = max(1, min(32, channels // 4))
        while channels % self.groups:
            self.groups -= 1
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return F.group_norm(x, self.groups, self.weight, self.bias, 1e-6)


class Block(nn.Module):
    def __init__(self, inputs, outputs, width, heads, skip_scale, resample=None):
        super().__init__()
        self.heads, self.skip_scale = heads, skip_scale
        self.norm0 = Norm(inputs)
        self.conv0 = Conv(inputs, outputs, 3, resample)
        self.affine = nn.Linear(width, outputs)
        self.norm1 = Norm(outputs)
        self.conv1 = Conv(outputs, outputs, 3)
        straight = inputs == outputs and resample is None
        self.skip = None if straight else Conv(inputs, outputs, 1, resample)
        if heads:
            self.norm2 = Norm(outputs)
            self.qkv = Conv(outputs, 3 * outputs, 1)
            self.proj = Conv(outputs, outputs, 1)

    def forward(self, x, emb):
        y = self.conv0(F.silu(self.norm0(x)))
        y = F.silu(self.norm1(y + self.affine(emb)[:, :, None, None]))
        y = (self.conv1(y) + (x if self.skip is None else self.skip(x))) * self.skip_scale
        return self.attend(y) if self.heads else y

    def attend(self, x):
        b, c, h, w = x.shape
        depth = c // self.heads
        qkv = self.qkv(self.norm2(x)).reshape(b * self.heads, depth, 3, h * w)
        q, k, v = (a.transpose(1, 2) for a in qkv.unbind(2))
        scores = (q / math.sqrt(depth)) @ k.transpose(1, 2)
        mixed = torch.softmax(scores, -1) @ v
        # Without contiguous() the image is a channels-last view, of whose tangent the
        # forward mode of group_norm says "view size is not compatible".
        y = self.proj(mixed.transpose(1, 2).contiguous().reshape(b, c, h, w))
        return (y + x) * self.skip_scale


class TimeFeatures(nn.Module):
    """[sin(t f), cos(t f)], f from 1 down to 1e-4, both included."""

    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        exponents = torch.arange(half, dtype=torch.float64) / (half - 1)
        self.register_buffer("frequencies", (1e-4**exponents).float(), persistent=False)

    def forward(self, t):
        angle = t[:, None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], 1)


class FlowMapUNet(nn.Module):
    """v(x, s, t - s): DDPM++ with a second time (time_embedding = s_gap)."""

    def __init__(self, spec):
        super().__init__()
        net, pre = dict(spec["network"]), dict(spec["preconditioning"])
        refuse_other_networks(net, pre)
        base = net.get("model_channels", 128)
        widths = [base * m for m in net.get("channel_mult", [2, 2, 2])]
        blocks, heads = net.get("num_blocks", 4), net.get("num_heads", 1)
        attn = net.get("attn_resolutions", [16])
        skip_scale = net.get("skip_scale", math.sqrt(0.5))
        self.patch = net.get("patch", 1)
        self.time_scale = pre.get("time_scale", 16)
        channels, height, _ = spec["sample_shape"]
        channels, height = channels * self.patch**2, height // self.patch
        emb = base * net.get("channel_mult_emb", 4)
        noise = base * net.get("channel_mult_noise", 1)

        self.map_noise = TimeFeatures(noise)
        self.map_layer0, self.map_layer1 = nn.Linear(noise, emb), nn.Linear(emb, emb)
        self.map2_layer0, self.map2_layer1 = nn.Linear(noise, emb), nn.Linear(emb, emb)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        last, skips = base, []

        def block(inputs, outputs, attention=False, resample=None):
            return Block(inputs, outputs, emb, heads if attention else 0, skip_scale,
                         resample)

        for level, width in enumerate(widths):
            side = height >> level
            name = f"{side}x{side}"
            if level == 0:
                self.enc[name + "_conv"] = Conv(channels, base, 3)
            else:
                self.enc[name + "_down"] = block(last, last, resample="down")
            skips.append(last)
            for i in range(blocks):
                self.enc[f"{name}_block{i}"] = block(last, width, side in attn)
                last = width
                skips.append(last)
        for level, width in reversed(list(enumerate(widths))):
            side = height >> level
            name = f"{side}x{side}"
            if level == len(widths) - 1:
                self.dec[name + "_in0"] = block(last, last, True)
                self.dec[name + "_in1"] = block(last, last)
            else:
                self.dec[name + "_up"] = block(last, last, resample="up")
            for i in range(blocks + 1):
                attention = i == blocks and side in attn
                self.dec[f"{name}_block{i}"] = block(last + skips.pop(), width, attention)
                last = width
        self.dec[name + "_aux_norm"] = Norm(last)
        self.dec[name + "_aux_conv"] = Conv(last, channels, 3)

    def forward(self, x, s, t):
        a = self.map_layer1(F.silu(self.map_layer0(self.map_noise(s * self.time_scale))))
        gap = self.map_noise((t - s) * self.time_scale)
        emb = F.silu(a + self.map2_layer1(F.silu(self.map2_layer0(gap))))
        x = F.pixel_unshuffle(x, self.patch)
        skips = []
        for part in self.enc.values():
            x = part(x, emb) if isinstance(part, Block) else part(x)
            skips.append(x)
        for name, part in self.dec.items():
            if isinstance(part, Norm):
                x = F.silu(part(x))
            elif isinstance(part, Conv):
                x = part(x)
            else:
                x = part(torch.cat([x, skips.pop()], 1) if "_block" in name else x, emb)
        return F.pixel_shuffle(x, self.patch)


def refuse_other_networks(net, pre):
    only = {"type": "ddpmpp", "embedding_type": "positional", "encoder_type": "standard",
            "decoder_type": "standard", "resample_filter": [1, 1],
            "adaptive_scale": False, "time_embedding": "s_gap", "dropout": 0,
            "augment_dim": 0}
    for key, value in only.items():
        if net.get(key, value) != value:
            sys.exit(f"networks.py knows network.{key} = {value} only, not {net[key]}")
    if pre.get("type") != "flow" or not pre.get("two_times"):
        sys.exit("networks.py knows two-time flow maps only (preconditioning.two_times)")
    for key in ("base_std", "sigma_data"):
        if pre.get(key, 1) != 1:
            sys.exit(f"networks.py knows preconditioning.{key} = 1 only, not {pre[key]}")


def network_spec(name, config):
    """The specification that bench_networks uses."""
    if name == "cifar":
        return {"network": {"type": "ddpmpp"}, "sample_shape": [3, 32, 32],
                "preconditioning": {"type": "flow", "two_times": True}}
    text = re.sub(r"//[^\n]*", "", pathlib.Path(config).read_text())
    spec = json.loads(re.sub(r",(\s*[}\]])", r"\1", text))  # trailing commas
    return {**spec, "sample_shape": [1, 28, 28]}


# ---- The steps -----------------------------------------------------------------------


class Workload:
    def __init__(self, model, x1, noise, s, t):
        self.model, self.x1, self.noise, self.s, self.t = model, x1, noise, s, t
        batch = len(x1)
        self.off = 0 if batch == 1 else max(1, batch // 4)

    @staticmethod
    def drawn(spec, batch):
        torch.manual_seed(0)
        shape = (batch, *spec["sample_shape"])
        p, q = torch.rand(batch), torch.rand(batch)
        return Workload(FlowMapUNet(spec), torch.rand(shape) * 2 - 1, torch.randn(shape),
                        torch.minimum(p, q), torch.maximum(p, q))

    def forward(self):
        with torch.no_grad():
            return self.model(self.x1, self.s, self.t)

    def flow_matching_loss(self):
        return self.diagonal(slice(None)) / len(self.x1)

    def mixed_loss(self, residual):
        on = len(self.x1) - self.off
        total = self.diagonal(slice(on))
        if self.off:
            total = total + residual(slice(on, None))
        return total / len(self.x1)

    def lsd_loss(self):
        return self.mixed_loss(self.lagrangian)

    def meanflow_loss(self):
        return self.mixed_loss(self.meanflow)

    def point(self, rows, time):
        time = time[:, None, None, None]
        return (1 - time) * self.noise[rows] + time * self.x1[rows]

    def diagonal(self, rows):
        t = self.t[rows]
        v = self.model(self.point(rows, t), t, t)
        return (v - (self.x1[rows] - self.noise[rows])).square().sum()

    def lagrangian(self, rows):
        s, t = self.s[rows], self.t[rows]
        x = self.point(rows, s)
        weights = dict(self.model.named_parameters())

        def velocity(time):
            return functional_call(self.model, weights, (x, s, time))

        v, slope = jvp(velocity, (t,), (torch.ones_like(t),))
        h = (t - s)[:, None, None, None]
        with torch.no_grad():
            target = self.model(x + h * v, t, t)
        return (v + h * slope - target).square().sum()

    def meanflow(self, rows):
        s, t = self.s[rows], self.t[rows]
        x, velocity = self.point(rows, s), self.x1[rows] - self.noise[rows]
        weights = {name: p.detach() for name, p in self.model.named_parameters()}

        def average(x, s):
            return functional_call(self.model, weights, (x, s, t))

        # As MeanFlow's own program: the derivative apart, without a tape.
        with torch.no_grad():
            _, slope = jvp(average, (x, s), (velocity, torch.ones_like(s)))
        h = (t - s)[:, None, None, None]
        v = self.model(x, s, t)
        return (v - (velocity + h * slope)).square().sum()

    def measure(self, what, precision):
        """Seconds of one run."""
        dtype = {"float32": torch.float32, "bf16": torch.bfloat16}[precision]
        if what == "sgemm":
            a = torch.linspace(-1, 1, GEMM_SIDE**2).view(GEMM_SIDE, GEMM_SIDE).to(dtype)
            start = time.perf_counter()
            torch.mm(a, a)
            return time.perf_counter() - start
        step = {"forward": self.forward, "forward_backward": self.flow_matching_loss,
                "lsd_step": self.lsd_loss, "meanflow_step": self.meanflow_loss}[what]
        self.model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            result = step()
        if what != "forward":
            result.backward()
        return time.perf_counter() - start

    def flops(self, what):
        """Of one image, counted as Model::multiply_adds and networks.cpp do."""
        total = 0

        def count(module, _, output):
            nonlocal total
            pixels = output.shape[-1] * output.shape[-2] if output.dim() == 4 else 1
            if isinstance(module, Resample):
                # 2x2 taps: four an output pixel going down, one going up.
                total += output.shape[1] * pixels * (1 if module.up else 4)
                return
            if isinstance(module, Block):
                if module.heads:
                    total += 2 * pixels**2 * output.shape[1]
                return
            total += module.weight.numel() * pixels

        kinds = (Conv, nn.Linear, Resample, Block)
        hooks = [m.register_forward_hook(count) for m in self.model.modules()
                 if isinstance(m, kinds)]
        with torch.no_grad():
            self.model(self.x1[:1], self.s[:1], self.t[:1])
        for hook in hooks:
            hook.remove()
        share = self.off / len(self.x1)
        return 2 * total * {"forward": 1, "forward_backward": 3,
                            "lsd_step": 3 * (1 - share) + 7 * share,
                            "meanflow_step": 3 * (1 - share) + 4 * share}[what]


# ---- The same network? ---------------------------------------------------------------


def read_safetensors(path):
    """Tensors (float32) and metadata."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    metadata, tensors = header.pop("__metadata__", {}), {}
    for name, entry in header.items():
        if entry["dtype"] != "F32":
            sys.exit(f"{path}: {name} is {entry['dtype']}, this reader takes F32 only")
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        values = numpy.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
        tensors[name] = torch.from_numpy(values.copy())
    return tensors, metadata


def write_safetensors(path, tensors):
    header, blobs, place = {}, [], 0
    for name, tensor in tensors.items():
        blob = tensor.contiguous().numpy().astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape),
                        "data_offsets": [place, place + len(blob)]}
        blobs.append(blob)
        place += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def load_snapshot(path):
    tensors, metadata = read_safetensors(path)
    spec = json.loads(metadata["spec"])
    model = FlowMapUNet(spec)
    state = {}
    for name, tensor in tensors.items():
        if name.startswith("log_weight."):
            continue  # of the loss, not of the network
        name = name.removeprefix("model.")
        state[name.replace("resample_filter", "resample.resample_filter")] = tensor
    model.load_state_dict(state)
    return model, spec


class Check:
    def __init__(self):
        self.good = True

    def compare(self, what, ours, theirs, tolerance=1e-4):
        """The norm of the difference over the norm of FlowMap's."""
        error = ((theirs - ours).norm() / ours.norm()).item()
        good = error <= tolerance  # false for NaN
        self.good = self.good and good
        verdict = "ok" if good else "DIFFERENT"
        print(f"{what:34} {error:.1e} relative (at most {tolerance:.0e})  {verdict}")


def check_snapshot(check, path, flowmap):
    model, spec = load_snapshot(path)
    torch.manual_seed(1)
    x = torch.randn(4, *spec["sample_shape"])
    s, t = torch.tensor([0.0, 0.2, 0.5, 0.3]), torch.tensor([1.0, 0.7, 0.5, 0.9])
    with tempfile.TemporaryDirectory() as folder:
        inputs, dest = f"{folder}/in.safetensors", f"{folder}/out.safetensors"
        write_safetensors(inputs, {"x": x, "s": s, "t": t, "t_tangent": torch.ones(4)})
        subprocess.run([flowmap, "evaluate", "--network", path, "--inputs", inputs,
                        "--dest", dest, "--view", "velocity", "--device", "cpu"],
                       check=True, stdout=subprocess.DEVNULL)
        ours, _ = read_safetensors(dest)
    with torch.no_grad():
        v, slope = jvp(lambda time: model(x, s, time), (t,), (torch.ones(4),))
    check.compare("flowmap evaluate: v_{s,t}(x)", ours["output"], v)
    check.compare("flowmap evaluate: its t-derivative", ours["output_tangent"], slope)


def check_reference(check, folder):
    folder = pathlib.Path(folder)
    model, _ = load_snapshot(folder / "network.safetensors")
    ours, _ = read_safetensors(folder / "step.safetensors")
    work = Workload(model, ours["x1"], ours["noise"], ours["s"], ours["t"])
    check.compare("forward", ours["forward"], work.forward())
    with torch.no_grad():
        check.compare("flow matching loss", ours["flow_matching_loss"],
                      work.flow_matching_loss(), 1e-5)
    loss = work.lsd_loss()
    loss.backward()
    check.compare("LSD loss", ours["lsd_loss"], loss.detach(), 1e-5)
    check.compare("MeanFlow loss", ours["meanflow_loss"], work.meanflow_loss().detach(),
                  1e-5)
    names = [n for n, _ in model.named_parameters()]
    gradients = [p.grad for p in model.parameters()]
    missing = [n for n in names if f"gradient/model.{n}" not in ours]
    if missing:
        sys.exit(f"{folder}: no gradient of {missing}")
    given = [ours[f"gradient/model.{n}"] for n in names]
    total = torch.cat([g.flatten() for g in given]).norm().item()
    check.compare("LSD gradient", torch.cat([g.flatten() for g in given]),
                  torch.cat([g.flatten() for g in gradients]))
    # Each by itself too, those apart that are nothing but rounding.
    sized = [i for i, g in enumerate(given) if g.norm().item() > 1e-5 * total]
    worst = max(sized, key=lambda i: (gradients[i] - given[i]).norm() / given[i].norm())
    check.compare(f"  {names[worst]}", given[worst], gradients[worst])


# ---- The program ---------------------------------------------------------------------


def facts(work, name):
    return {"program": "pytorch", "torch": torch.__version__, "network": name,
            "parameters": sum(p.numel() for p in work.model.parameters()),
            "batch": len(work.x1), "off_diagonal": work.off,
            "threads": torch.get_num_threads(),
            "gflop_per_image": {step: work.flops(step) / 1e9 for step in STEPS},
            "sgemm_gflop": GEMM_FLOPS / 1e9}


def serve(work, name):
    print(json.dumps(facts(work, name)), flush=True)
    for line in sys.stdin:
        print(f"{work.measure(*line.split()):.9g}", flush=True)


def measure_all(work, name, repeats, as_json):
    rows = [(step, "float32") for step in STEPS]
    if name == "demo":
        rows += [("forward", "bf16"), ("forward_backward", "bf16")]
    results, peak = [], {}
    for what, precision in rows:
        if precision not in peak:
            least = min(work.measure("sgemm", precision) for _ in range(4))
            peak[precision] = GEMM_FLOPS / least / 1e9
        work.measure(what, precision)  # warms up
        seconds = statistics.median(work.measure(what, precision) for _ in range(repeats))
        rate, gflop = len(work.x1) / seconds, work.flops(what) / 1e9
        results.append({"what": what, "precision": precision, "seconds": seconds,
                        "img_per_s": rate, "gflop_per_image": gflop,
                        "gflop_per_s": gflop * rate,
                        "sgemm_gflop_per_s": peak[precision]})
    if as_json:
        print(json.dumps({**facts(work, name), "results": results}))
        return
    print(f"{'what':17} {'':8} {'seconds':>10} {'img/s':>9} {'GFLOP/image':>12} "
          f"{'GFLOP/s':>8} {'sgemm GFLOP/s':>13}")
    for r in results:
        print(f"{r['what']:17} {r['precision']:8} {r['seconds']:10.4f} "
              f"{r['img_per_s']:9.2f} {r['gflop_per_image']:12.3f} "
              f"{r['gflop_per_s']:8.1f} {r['sgemm_gflop_per_s']:13.1f}")


def positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("cifar", "demo"), default="demo")
    parser.add_argument("--config", default=ROOT / "configs/fashion-mnist/student.json",
                        help="of the demo network")
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument("--threads", type=positive)
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--reference", metavar="FOLDER")
    parser.add_argument("--snapshot", metavar="FILE")
    parser.add_argument("--flowmap", metavar="BINARY", default=ROOT / "build/dev/flowmap")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.reference or options.snapshot:
        check = Check()
        if options.reference:
            check_reference(check, options.reference)
        if options.snapshot:
            check_snapshot(check, options.snapshot, options.flowmap)
        sys.exit(0 if check.good else 1)
    work = Workload.drawn(network_spec(options.network, options.config), options.batch)
    if options.serve:
        serve(work, options.network)
    else:
        measure_all(work, options.network, options.repeats, options.json)


if __name__ == "__main__":
    main()
