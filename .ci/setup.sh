#!/usr/bin/env bash
# Sets everything up and builds: system packages, a private Python environment with Meson and Ninja, the CUDA compiler
# where it is wanted and no nvcc >= 12.8 is found, then meson and ninja. Run it as often as you like: it says what it
# does, and costs seconds when everything is there. Nothing outside the build folder is touched but system packages (as
# root only).
#
#   .ci/setup.sh [-Doption=value ...] [--cross-file=FILE] [TARGET ...]
#
# Meson options are kept until they are changed (see meson_options.txt); a cross file counts when the build folder is made. Without targets everything is built, tests
# included; a target is a path in the build folder.
#
#   DSV4MX_BUILD=DIR   build folder (default: build/ in the repository)
#   DSV4MX_VENV=DIR    environment with the tools (default: venv/ in the build folder)
#   DSV4MX_CUDA=1|0    with the CUDA backend, or without. Unset: with it where there is an NVIDIA driver or an nvcc, or
#                      where the build folder has it already
#   DSV4MX_JOBS=N      compile jobs (default: one per processor)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${DSV4MX_BUILD:-$root/build}
venv=${DSV4MX_VENV:-$build/venv}
case $build in /*) ;; *) build=$PWD/$build ;; esac
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac

say() { printf 'setup: %s\n' "$*"; }
die() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

# --- System packages ---------------------------------------------------------------------------------------------------

# Prints the Debian packages whose use fails here, asking for what is used instead of how it was installed.
missing_packages() {
  local probe
  probe=$(mktemp --suffix=.cc)
  echo 'int main() { return __cplusplus >= 202002L ? 0 : 1; }' >"$probe"
  c++ -std=c++20 -fsyntax-only "$probe" 2>/dev/null || echo g++
  command -v cc >/dev/null || echo gcc
  command -v pkg-config >/dev/null || echo pkg-config
  echo '#include <nlohmann/json.hpp>' >"$probe"
  c++ -std=c++20 -fsyntax-only "$probe" 2>/dev/null || echo nlohmann-json3-dev
  echo '#include <absl/types/span.h>' >"$probe"
  c++ -std=c++20 -fsyntax-only "$probe" 2>/dev/null || echo libabsl-dev
  printf '#include <zstd.h>\nint main() { return static_cast<int>(ZSTD_versionNumber() & 1); }\n' >"$probe"
  c++ -o /dev/null "$probe" -l:libzstd.a 2>/dev/null || echo libzstd-dev
  printf '#if __has_include(<catch2/catch.hpp>) || __has_include(<catch2/catch_all.hpp>)\n#else\n#error\n#endif\n' >"$probe"
  c++ -std=c++20 -fsyntax-only "$probe" 2>/dev/null || echo catch2
  python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
  rm -f "$probe"
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} -eq 0 ] && return
  if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
    say "installing the system packages ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install --no-install-recommends "${missing[@]}" >"$build/apt.log" 2>&1 ||
      { tail -n 20 "$build/apt.log" >&2; die "apt-get could not install ${missing[*]} (log: $build/apt.log)"; }
    return
  fi
  say "these packages are missing: ${missing[*]}"
  say "as root on Debian or Ubuntu: apt-get install ${missing[*]}"
  case " ${missing[*]} " in
    *' g++ '* | *' gcc '* | *' python3-venv '*) die 'a C++20 compiler, a C compiler and python3-venv are needed to go on' ;;
  esac
  say 'going on: Meson falls back to its wraps, which download sources'
}

# --- Python environment ------------------------------------------------------------------------------------------------

# install_requirements FILE: once per content of FILE; the stamp holds what was installed.
install_requirements() {
  local stamp=$venv/.installed-${1%.txt}
  cmp -s "$root/.ci/$1" "$stamp" && return
  say "installing .ci/$1 into $venv"
  "$venv/bin/python" -m pip --quiet --disable-pip-version-check install --requirement "$root/.ci/$1"
  cp "$root/.ci/$1" "$stamp"
}

make_venv() {
  if ! "$venv/bin/python" -c '' 2>/dev/null || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    say "making the Python environment $venv"
    python3 -m venv --clear "$venv"
  fi
  install_requirements requirements.txt
}

# --- CUDA compiler -----------------------------------------------------------------------------------------------------

# A driver: its kernel module, its device (WSL has another), or its library, which is all that some containers show.
has_nvidia_driver() {
  [ -e /proc/driver/nvidia/version ] || [ -e /dev/nvidiactl ] || [ -e /dev/dxg ] ||
    PATH=$PATH:/usr/sbin:/sbin ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1 '
}

has_nvcc() { # of whatever version
  command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-${CUDA_PATH:-/usr/local/cuda}}/bin/nvcc" ]
}

wants_cuda() {
  case ${DSV4MX_CUDA:-} in
    1) return 0 ;;
    0) return 1 ;;
    '') ;;
    *) die "DSV4MX_CUDA is '$DSV4MX_CUDA', wanted 1 (with the CUDA backend), 0 (without) or nothing" ;;
  esac
  if grep -qs -- '-Dcuda=enabled' "$build/.cuda_options" || has_nvidia_driver || has_nvcc; then return 0; fi
  say 'no NVIDIA driver and no nvcc here: building the CPU backend alone'
  say 'DSV4MX_CUDA=1 adds the CUDA backend: it downloads a compiler of 110 MB (280 MB unpacked) and builds for ten minutes'
  return 1
}

# Sets cuda_options for Meson.
find_cuda() {
  local found wheels
  cuda_options=(-Dcuda=disabled)
  wants_cuda || return 0
  if found=$(python3 "$root/kernels/find_nvcc.py" 2>/dev/null); then
    say "CUDA compiler: $(head -n 1 <<<"$found") ($(sed -n 2p <<<"$found"))"
    cuda_options=(-Dcuda=enabled)
    return
  fi
  if [ "$(uname -sm)" != 'Linux x86_64' ]; then
    say "no nvcc >= 12.8, and no wheels for $(uname -sm): building the CPU backend alone"
    return
  fi
  install_requirements requirements-cuda.txt
  wheels=$("$venv/bin/python" -c 'import nvidia, os
print(next(d for p in nvidia.__path__ for d in [os.path.join(p, "cu13")] if os.path.isfile(d + "/bin/nvcc")))')
  say "CUDA compiler: $wheels/bin/nvcc (from wheels)"
  cuda_options=(-Dcuda=enabled "-Dtoolkit_root=$wheels")
}

# --- Configure and build -----------------------------------------------------------------------------------------------

# An option is given to Meson again only when it changed: configuring costs seconds.
configure() {
  local options=("${cuda_options[@]}" "$@") changes=() word
  for word in "$@"; do
    case $word in -D*) changes+=("$word") ;; esac
  done
  if [ ! -f "$build/build.ninja" ]; then
    say "configuring $build"
    "$venv/bin/meson" setup "$build" "$root" "${options[@]}" >"$build/setup.log" 2>&1 ||
      { cat "$build/setup.log" >&2; die "meson setup failed (log: $build/setup.log)"; }
    sed -n '/^    Backends/,/^$/p' "$build/setup.log"
  elif [ ${#changes[@]} -gt 0 ] || [ "$(cat "$build/.cuda_options" 2>/dev/null)" != "${cuda_options[*]}" ]; then
    say "configuring $build again with ${cuda_options[*]} ${changes[*]}"
    "$venv/bin/meson" configure "$build" "${cuda_options[@]}" "${changes[@]}"
  fi
  echo "${cuda_options[*]}" >"$build/.cuda_options"
}

mkdir -p "$build"
install_packages
make_venv
find_cuda
export PATH=$venv/bin:$PATH
options=() targets=()
for word in "$@"; do
  case $word in -*) options+=("$word") ;; *) targets+=("$word") ;; esac
done
configure "${options[@]}"
say 'building'
[ ${#targets[@]} -gt 0 ] || targets=(all meson-test-prereq)
quiet=--quiet
[ ! -t 1 ] || quiet='' # one line that counts
ninja ${quiet:+"$quiet"} -C "$build" ${DSV4MX_JOBS:+-j "$DSV4MX_JOBS"} "${targets[@]}"
say "ready: $build"
