#!/usr/bin/env bash
# Sets everything up and runs the library's main job: one MoE layer of a checkpoint is loaded, prepared and applied, and
# sampled rows are compared with the reference. Without a path a small checkpoint in the real byte formats is written
# first (once, into the build folder).
#
#   examples/run.sh [CHECKPOINT [options of moe_layer]]     a .safetensors file, an index, or a folder with either
#
# The variables of .ci/setup.sh hold here too (DSV4MX_BUILD, DSV4MX_CUDA=1, ...).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${DSV4MX_BUILD:-$root/build}
case $build in /*) ;; *) build=$PWD/$build ;; esac

"$root/.ci/setup.sh" examples/checkpoint_make examples/moe_layer
if [ $# -eq 0 ]; then
  checkpoint=$build/checkpoint
  # The index is written last: without it an earlier run was interrupted.
  [ -f "$checkpoint/model.safetensors.index.json" ] || "$build/examples/checkpoint_make" "$checkpoint"
  set -- "$checkpoint"
fi
exec "$build/examples/moe_layer" "$@"
