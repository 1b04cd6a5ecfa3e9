#!/usr/bin/env bash
# Line coverage of lib/ by the unit tests, per folder and for all of it: a build of its own with gcov counters, the two test
# programs, and gcov's own summaries added up. Lines of a header count once, covered if any file that includes it ran them.
#
#   tests/coverage.sh [FOLDER]      build folder, default build/coverage
#
# The variables of .ci/setup.sh hold here too (DSV4MX_VENV, DSV4MX_JOBS); the CUDA backend is left out.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${1:-$root/build/coverage}
case $build in /*) ;; *) build=$PWD/$build ;; esac
export DSV4MX_VENV=${DSV4MX_VENV:-$root/build/venv}

DSV4MX_BUILD=$build DSV4MX_CUDA=0 "$root/.ci/setup.sh" -Db_coverage=true -Dbuildtype=debug -Doptimization=1 \
  -Dexamples=false -Dbench=false \
  tests/dsv4mx-tests tests/dsv4mx-dist-tests tests/libfakenccl.so
find "$build" -name '*.gcda' -delete
cd "$root" # tests read their data from here
"$build/tests/dsv4mx-tests" | tail -n 1
DSV4MX_TEST_FAKE_NCCL=$build/tests/libfakenccl.so "$build/tests/dsv4mx-dist-tests" | tail -n 1
find "$build/lib" -name '*.gcda' -print0 | xargs -0 gcov --json-format --stdout 2>/dev/null |
  python3 "$root/tests/coverage.py" "$root" "$build"
