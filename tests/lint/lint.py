#!/usr/bin/env python3
"""Rules that a compiler does not check. Usage: lint.py SOURCE_ROOT

Prints one line for each breach, `FILE:LINE: what is wrong`; exit code 1 where there is
one. The picture of what may include what stands in ALLOWED.
"""
import pathlib
import re
import sys

# The torch-free layer: readers and writers of files stand on the base.
FILES = ["lib/flowmap/formats", "lib/flowmap/base"]
# Layer (longest matching folder) -> the layers it may include besides itself.
ALLOWED = {
    "kernels": [],
    "lib/flowmap/base": [],
    "lib/flowmap/formats": FILES[1:],
    "lib/flowmap": FILES,
    "lib/samplers": ["lib/flowmap"] + FILES,
    "lib/distill": ["lib/samplers", "lib/flowmap"] + FILES,
    "lib/metrics": ["lib/flowmap"] + FILES,
    "apps": ["lib/distill", "lib/metrics", "lib/samplers", "lib/flowmap"] + FILES,
    "tests/support": ["lib/samplers", "lib/flowmap"] + FILES,
    "tests/kernels": ["kernels", "lib/flowmap/base", "tests/support"],
    "tests/base": ["lib/flowmap/base", "tests/support"],
    "tests/formats": FILES + ["tests/support"],
    "tests/fuzz": FILES,
}
# tests/X may include what X may, X itself and tests/support.
for _layer in ("flowmap", "samplers", "distill", "metrics"):
    ALLOWED["tests/" + _layer] = ["lib/" + _layer, "tests/support"] + \
        ALLOWED["lib/" + _layer]
ALLOWED["tests/apps"] = ["apps", "tests/support"] + ALLOWED["apps"]
ALLOWED["benchmarks"] = ["kernels", "tests/support"] + ALLOWED["apps"]
# The files that see the kernels.
BRIDGES = re.compile(r"lib/flowmap/ops\w*\.cpp")
TORCH_FREE = ("kernels", "lib/flowmap/base", "lib/flowmap/formats", "tests/kernels",
              "tests/base", "tests/formats", "tests/fuzz")

FOLDERS = ("kernels", "lib", "apps", "tests", "benchmarks", "scripts", "configs", "docs",
           "cmake", "models", ".ci")
CPP = {".cpp", ".h", ".cu", ".cuh"}
SCRIPTS = {".py", ".sh", ".cmake", ""}
PROSE = {".md", ".txt", ".json", ".in"}
MOST_LINES, MOST_COLUMNS = 600, 100
TABLE_MARK = "lint: table"  # in the first five lines of a file that is data in code

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
TORCH_NAME = re.compile(r"\b(?:at|torch|c10)::")
UNFINISHED = re.compile(r"\b(?:" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b")
MACHINE_PATH = re.compile(r"(?<![\w.$}\-])/(?:work|root|farm|home/\w+|Users/\w+)(?=[/\s\"'`),:;]|$)")
CONFIG_COMMENT = (("for whom it is", r"\bfor\b"),
                  ("what it costs", r"\bcosts?\b|\b(second|minute|hour)s?\b"),
                  ("the number to reach", r"\breach"))
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)|!\[[^\]]*\]\(([^)\s]+)\)")


def layer_of(path):
    """The layer of a file or include path relative to the root, or None."""
    parts = path.split("/")
    for size in range(len(parts) - 1, 0, -1):
        folder = "/".join(parts[:size])
        if folder in ALLOWED:
            return folder
    return None


def strip_comment(line):
    return re.sub(r'"(?:\\.|[^"\\])*"', '""', line).split("//")[0]


def files_of(root):
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path
    yield from sorted(path for path in root.iterdir()
                      if path.is_file() and path.suffix in CPP | SCRIPTS | PROSE)


def check_include(root, name, number, quote, target):
    """Breaches of one #include line of file `name`."""
    layer = layer_of(name)
    if target in ("torch/torch.h", "torch/extension.h", "torch/all.h"):
        yield f"{target} costs 18 s a file; include what is used (docs/build.md)"
    if layer in TORCH_FREE and target.split("/")[0] in ("torch", "ATen", "c10"):
        yield f"{layer} knows no torch, and includes {target}"
    if name.endswith((".h", ".cuh")) and target.split("/")[0] in ("nlohmann", "CLI"):
        yield f"{target} belongs in few .cpp files, never in a header"
    found = next((prefix + target for prefix in ("lib/", "")
                  if (root / (prefix + target)).is_file()), None)
    if found is None:
        # Generated and system headers are spelled with <>, or as apps/build_facts.h.
        if quote == '"' and not (root / (target + ".in")).is_file():
            yield f'"{target}" is not a path from lib/ or the root; include by full path'
        return
    if layer is None or found == name:
        return
    wanted = layer_of(found)
    allowed = [layer] + ALLOWED[layer] + (["kernels"] if BRIDGES.fullmatch(name) else [])
    if wanted is not None and wanted not in allowed:
        yield f"{layer} may not include {wanted} ({target})"


def check_cpp(root, name, lines):
    layer = layer_of(name)
    if name.endswith((".h", ".cuh")) and "#pragma once" not in lines:
        yield 1, "header without #pragma once"
    for number, line in enumerate(lines, 1):
        if len(line) > MOST_COLUMNS:
            yield number, f"{len(line)} columns; at most {MOST_COLUMNS}"
        if "\t" in line:
            yield number, "tab"
        match = INCLUDE.match(line)
        if match:
            for what in check_include(root, name, number, *match.groups()):
                yield number, what
        elif layer in TORCH_FREE and TORCH_NAME.search(strip_comment(line)):
            yield number, f"{layer} knows no torch, and names it"


def check_config(lines):
    """Every config opens with a comment: for whom, its cost, the number to reach."""
    comment = []
    for line in lines:
        if not line.strip().startswith("//"):
            break
        comment.append(line.strip().lstrip("/").strip())
    text = "\n".join(comment)
    for what, pattern in CONFIG_COMMENT:
        if not re.search(pattern, text, re.I):
            yield 1, f"the leading comment does not say {what}"


def check_links(root, path, lines):
    for number, line in enumerate(lines, 1):
        for match in LINK.finditer(line):
            target = match.group(1) or match.group(2)
            if re.match(r"\w+:", target) or target.startswith("<"):
                continue
            if not (path.parent / target).exists():
                yield number, f"link to {target}, which is not there"


def check_file(root, path):
    name = path.relative_to(root).as_posix()
    if path.suffix not in CPP | SCRIPTS | PROSE:
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    lines = text.splitlines()
    is_code = path.suffix in CPP | SCRIPTS or path.name == "CMakeLists.txt"
    if is_code and len(lines) > MOST_LINES and path.name != "LICENSE" and \
            not any(TABLE_MARK in line for line in lines[:5]):
        yield 1, f"{len(lines)} lines; at most {MOST_LINES}"
    for number, line in enumerate(lines, 1):
        match = UNFINISHED.search(line)
        if match:
            yield number, f"unfinished: {match.group(0)}"
        match = MACHINE_PATH.search(line)
        if match:
            yield number, f"path of one machine: {match.group(0)}"
    if path.suffix in CPP:
        yield from check_cpp(root, name, lines)
    if name.startswith("configs/") and path.suffix == ".json":
        yield from check_config(lines)
    if path.suffix == ".md":
        yield from check_links(root, path, lines)


def check_tree(root):
    root = pathlib.Path(root).resolve()
    for path in files_of(root):
        for number, what in check_file(root, path):
            yield f"{path.relative_to(root).as_posix()}:{number}: {what}"


def main():
    if len(sys.argv) != 2 or not pathlib.Path(sys.argv[1], "lib").is_dir():
        print(__doc__)
        return 2
    breaches = list(check_tree(sys.argv[1]))
    print("\n".join(breaches) if breaches else "lint: nothing to say")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
