# What the scripts share. Sourced, never run.
# shellcheck shell=bash
fm_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # read by scripts/setup
fm_torch_version=2.11.0
fm_name=$(basename "$0")

fm_say() { printf '%s: %s\n' "$fm_name" "$*"; }
fm_fail() { printf '%s: %s\n' "$fm_name" "$*" >&2; exit 1; }

# The cache outside the checkout, which a second clone finds again.
fm_cache() { printf '%s' "${FLOWMAP_CACHE:-${HOME:?HOME is not set; set FLOWMAP_CACHE}/.cache/flowmap}"; }

# Prints the torch folder under $1 (an unpacked libtorch, or a Python environment's torch
# folder or its parent); fails where there is none. cmake/FindLibTorch.cmake looks alike.
fm_torch_under() {
  local folder
  for folder in "$1" "$1/torch"; do
    if [[ -e $folder/include/ATen/ATen.h && -e $folder/lib/libtorch_cpu.so ]]; then
      printf '%s' "$folder"
      return 0
    fi
  done
  return 1
}

# Through sudo, in a checkout that belongs to the user who called sudo: system packages
# are installed as root, everything else is done as that user, so that nothing in the
# checkout or in the user's cache ends up belonging to root.
fm_is_lent_root() {
  [[ $EUID -eq 0 && -n ${SUDO_USER:-} && ${SUDO_USER:-} != root ]] &&
    [[ $(stat -c %U "$fm_root") == "$SUDO_USER" ]]
}
fm_as_caller() {
  local kept=() name
  for name in LIBTORCH FLOWMAP_CACHE FLOWMAP_PRESET FLOWMAP_DATA FLOWMAP_REFERENCE \
              FLOWMAP_REQUIRE_REFERENCE OMP_NUM_THREADS PATH; do
    [[ -z ${!name:-} ]] || kept+=("$name=${!name}")
  done
  sudo -u "$SUDO_USER" -H env "${kept[@]}" "$@"
}

# fm_build PRESET [TARGET...]: configures and builds. The first time CMake says all it
# finds; later only what is wrong.
fm_build() {
  local preset=$1 level=NOTICE
  shift
  (
    cd "$fm_root" || exit
    [[ -e build/$preset/build.ninja ]] || level=STATUS
    cmake --preset "$preset" --log-level="$level"
    cmake --build --preset "$preset" ${1+--target "$@"}
  )
}
