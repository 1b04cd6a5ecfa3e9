#!/usr/bin/env bash
# Lets Python's safetensors write checkpoints of every family and dsv4mx-tests read them back. Skipped, with the reason,
# where the package is missing (.ci/requirements-tests.txt).
#
#   tests/io/foreign_checkpoints.sh PYTHON DSV4MX_TESTS
set -euo pipefail
python=$1 tests=$2
if ! "$python" -c 'from safetensors import TensorSpec; import numpy' 2>/dev/null; then
  echo "skipped: checkpoints of other writers: $python has no safetensors >= 0.8 or no numpy (.ci/requirements-tests.txt)"
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$python" "$(dirname "$0")/foreign_checkpoints.py" "$dir/checkpoints"
DSV4MX_FOREIGN_CHECKPOINTS=$dir/checkpoints "$tests" '[.foreign]'
