#!/usr/bin/env python3
"""CPU seconds, on one thread, of Frechet distance from statistics (against scipy's sqrtm),
kernel distance and precision (against plain numpy). Both sides read the same numbers and
must agree. Prints a Markdown table.

  .peers/bin/python benchmarks/peers/distance.py --bench build/bench/benchmarks/bench_distance
"""

import argparse
import os
import pathlib
import subprocess
import tempfile
import time

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402  (threads are set before)
import scipy.linalg  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402


def covariances(rng, d):
    """`even`: 2 d samples of equal variance; `spread`: variances over seven decades, as
    Inception's features have them."""
    for name, scale in (("even", np.ones(d)), ("spread", np.logspace(0, -3.5, d))):
        q = np.linalg.qr(rng.standard_normal((d, d)))[0]
        x = rng.standard_normal((2 * d, d)) * scale
        y = rng.standard_normal((2 * d, d)) * scale * np.linspace(0.8, 1.3, d)
        yield name, [np.zeros(d), q.T @ np.cov(x, rowvar=False) @ q,
                     np.full(d, 0.01), q.T @ np.cov(y, rowvar=False) @ q]


def frechet(mu1, sigma1, mu2, sigma2):
    root = scipy.linalg.sqrtm(sigma1.dot(sigma2))
    return float(((mu1 - mu2) ** 2).sum() + np.trace(sigma1) + np.trace(sigma2)
                 - 2 * np.trace(root).real)


def kernel_distance(x, y):
    x, y = x.astype(np.float64), y.astype(np.float64)
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    m, n = len(x), len(y)
    return ((xx.sum() - np.trace(xx)) / (m * (m - 1)) +
            (yy.sum() - np.trace(yy)) / (n * (n - 1)) - 2 * xy.mean())


def precision(x, y, k=3):
    x, y = x.astype(np.float64), y.astype(np.float64)
    def squares(a, b):
        return (a ** 2).sum(1)[:, None] + (b ** 2).sum(1) - 2 * a @ b.T
    own_x, own_y = squares(x, x), squares(y, y)  # the radii of both, as for recall
    radii, _ = np.partition(own_x, k, axis=1)[:, k], np.partition(own_y, k, axis=1)[:, k]
    return (squares(x, y) <= radii[:, None]).any(0).mean()


def timed(function, *arguments):
    begin = time.process_time()
    value = function(*arguments)
    return value, time.process_time() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=pathlib.Path, required=True)
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=2)
    o = parser.parse_args()
    rng = np.random.default_rng(0)
    tensors, theirs = {}, {}
    for name, case in covariances(rng, o.dimensions):
        for part, value in zip(("mu1", "sigma1", "mu2", "sigma2"), case):
            tensors[f"frechet-{name}/{part}"] = np.ascontiguousarray((value + value.T) / 2)
        case = [tensors[f"frechet-{name}/{part}"]
                for part in ("mu1", "sigma1", "mu2", "sigma2")]
        theirs[f"frechet-{name}"] = timed(frechet, *case)
    real = rng.standard_normal((o.rows, o.dimensions)).astype(np.float32)
    fake = (1.1 * rng.standard_normal((o.rows, o.dimensions)) + 0.02).astype(np.float32)
    tensors.update({"sets/real": real, "sets/fake": fake})
    theirs["kid"] = min((timed(kernel_distance, real, fake) for _ in range(o.repeats)),
                        key=lambda result: result[1])
    theirs["precision"] = min((timed(precision, real, fake) for _ in range(o.repeats)),
                              key=lambda result: result[1])
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "sets.safetensors"
        save_file(tensors, path)
        lines = subprocess.run([o.bench, path, str(o.repeats)], check=True, text=True,
                               stdout=subprocess.PIPE).stdout.split("\n")
    print(f"CPU seconds, one thread, {o.dimensions} dimensions, {o.rows} + {o.rows} rows\n")
    print("| distance | FlowMap | Python | ratio | values differ by (relative) |")
    print("|---|---|---|---|---|")
    for line in filter(None, lines):
        name, value, seconds = line.split()
        other, their_seconds = theirs[name]
        gap = abs(float(value) - other) / max(abs(other), 1e-300)
        if gap > 1e-5:
            raise SystemExit(f"{name}: {value} against {other}")
        print(f"| {name} | {float(seconds):.2f} | {their_seconds:.2f} | "
              f"{their_seconds / float(seconds):.1f} | {gap:.1e} |")


if __name__ == "__main__":
    main()
