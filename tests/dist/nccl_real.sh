#!/usr/bin/env bash
# The real NCCL, as many versions as are here: it is found, tells its version, gives a unique id, refuses a communicator
# without a GPU by a status; and its nccl.h agrees with what lib/dist/nccl_types.h says of it.
#
#   tests/dist/nccl_real.sh BUILD TESTS
#
# Versions come from the venv of the build (nvidia-nccl-cu13, with the CUDA toolkit) and from wheels in BUILD/nccl. With
# DSV4MX_NCCL_DOWNLOAD=1 the oldest supported one (nvidia-nccl-cu12 2.19.3, 166 MB) is fetched there once; CI does not.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$1 tests=$2
mkdir -p "$build/nccl"
if [ "${DSV4MX_NCCL_DOWNLOAD:-0}" = 1 ] && ! ls "$build"/nccl/nvidia_nccl_cu12-2.19.3-*.whl >/dev/null 2>&1; then
  python3 -m pip --quiet --disable-pip-version-check download --no-deps --dest "$build/nccl" nvidia-nccl-cu12==2.19.3
fi
for wheel in "$build"/nccl/*.whl; do
  [ -f "$wheel" ] || continue
  folder=${wheel%.whl}
  [ -f "$folder/nvidia/nccl/lib/libnccl.so.2" ] || python3 -m zipfile -e "$wheel" "$folder"
done
found=()
for folder in "$build"/nccl/*/nvidia/nccl "${DSV4MX_VENV:-$build/venv}"/lib/python3*/site-packages/nvidia/nccl; do
  [ -f "$folder/lib/libnccl.so.2" ] && found+=("$folder")
done
if [ ${#found[@]} = 0 ]; then
  echo "skipped: the real NCCL is not here: DSV4MX_NCCL_DOWNLOAD=1 fetches it (166 MB), or put a wheel into $build/nccl"
  exit 77
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# All that nccl.h wants of CUDA.
printf '#include <stddef.h>\n#define __CUDA_BF16_TYPES_EXIST__\ntypedef struct CUstream_st* cudaStream_t;\n' >"$work/cuda_runtime.h"
touch "$work/cuda_fp16.h" "$work/cuda_bf16.h"
passed=0
for folder in "${found[@]}"; do
  "${CXX:-c++}" -std=c++20 -Wno-psabi -I"$work" -I"$folder/include" -I"$root" -I"$root/include" \
    -o "$work/check" "$root/tests/dist/nccl_header_check.cc"
  "$work/check"
  DSV4MX_TEST_NCCL=$folder/lib/libnccl.so.2 "$tests" "[real-nccl]" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
  grep -q '0 failed, 0 skipped' "$work/log" || { cat "$work/log"; exit 1; }
  grep '^NCCL' "$work/log"
  passed=$((passed + 1))
done
echo "$passed passed, 0 failed, 0 skipped"
