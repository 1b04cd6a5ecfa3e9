#!/usr/bin/env bash
# Builds the fuzz targets with clang's libFuzzer, address and undefined-behaviour sanitizers, and runs each for a while from
# the corpus in the tree. New inputs go into the build folder; one that breaks a promise is kept there as well, printed, and
# makes the script fail. What ran is printed as lines for COUNTS.
#
#   tests/fuzz/run.sh SECONDS [TARGET...]      seconds for each target; default: all targets
#
# DSV4MX_BUILD is the build folder (default: build/fuzz); the other variables of .ci/setup.sh hold too. Debian's packages are
# clang and libclang-rt-dev. An input that takes two minutes counts as a finding: machines of CI stand still at times.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
seconds=$1
shift
export DSV4MX_BUILD=${DSV4MX_BUILD:-$root/build/fuzz} DSV4MX_VENV=${DSV4MX_VENV:-$root/build/venv} DSV4MX_CUDA=0
build=$DSV4MX_BUILD
# The list stands on one line.
mapfile -t targets < <(sed -n "s/^fuzz_targets = \[\(.*\)\]$/\1/p" "$root/tests/fuzz/meson.build" | grep -o "[a-z_]*")
[ $# -eq 0 ] || targets=("$@")

# The fuzzer sees the library's branches, so all of it is compiled for it; the oldest instruction set costs least to build.
export CC=${CC:-clang} CXX=${CXX:-clang++}
"$root/.ci/setup.sh" -Dfuzz=true -Dtests=disabled -Dbench=false -Dexamples=false -Db_sanitize=address,undefined \
  -Db_lundef=false -Dbuildtype=debugoptimized -Doptimization=1 -Dcpp_args="-fsanitize=fuzzer-no-link -fsanitize-coverage-ignorelist=$root/tests/fuzz/uncovered.txt" \
  "${targets[@]/#/tests/fuzz/fuzz-}" >"$build.log" 2>&1 || { tail -n 40 "$build.log" >&2; exit 1; }

export ASAN_OPTIONS=allocator_may_return_null=1:detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
# One target on each processor.
fuzz() { # TARGET
  local found=$build/corpus/$1 log=$build/$1.log good=1 runs findings
  mkdir -p "$found" "$build/findings"
  "$build/tests/fuzz/fuzz-$1" -max_total_time="$seconds" -max_len=8192 -timeout=120 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$build/findings/$1-" "$found" "$root/tests/fuzz/corpus/$1" >"$log" 2>&1 || { good=0; tail -n 30 "$log"; }
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  findings=$(find "$build/findings" -name "$1-*" | wc -l)
  printf '%s  %-12s %12s  %s\n' "$(date -u +%F)" "$1" "${runs:-0}" "$findings"
  [ $good = 1 ]
}
export -f fuzz
export build root seconds
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I '{}' bash -c 'fuzz {}'
