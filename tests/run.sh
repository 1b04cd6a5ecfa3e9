#!/usr/bin/env bash
# Sets everything up, builds, and runs all tests. The last line is "N passed, N failed, N skipped"; the exit status is 0
# when nothing failed. GPU tests are skipped, with the reason, where there is no GPU.
#
#   tests/run.sh [meson test arguments]     e.g. tests/run.sh --suite unit
#
# The variables of .ci/setup.sh hold here too (DSV4MX_BUILD, DSV4MX_CUDA=1, ...).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${DSV4MX_BUILD:-$root/build}
case $build in /*) ;; *) build=$PWD/$build ;; esac
export PATH=${DSV4MX_VENV:-$build/venv}/bin:$PATH

# Where some tests are chosen, Meson builds what these need.
targets=()
[ $# -eq 0 ] || targets=(build.ninja)
"$root/.ci/setup.sh" "${targets[@]}"
rm -f "$build"/meson-logs/testlog*.json
# Its own exit status only says whether something failed; the counts below say it too, and in one way for all suites.
meson test -C "$build" --print-errorlogs "$@" || true
python3 "$root/tests/count.py" "$build"/meson-logs/testlog*.json
