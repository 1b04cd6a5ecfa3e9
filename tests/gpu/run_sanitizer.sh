#!/usr/bin/env bash
# Runs the cases tagged [sanitize] under the tools of compute-sanitizer, each with a time limit, and prints a line per tool.
# The exit status is 0 when every tool ran, found nothing and no case failed or was skipped.
#
#   tests/gpu/run_sanitizer.sh [TOOL ...]     memcheck racecheck synccheck initcheck (default: all four)
#
#   DSV4MX_BUILD=DIR        build folder (default: build/ in the repository)
#   DSV4MX_SANITIZER=PATH   compute-sanitizer (default: PATH, then the toolkits under /usr/local)
#   DSV4MX_LIMIT=SECONDS    for each tool (default: 600)
#   DSV4MX_CASES=TAGS       other cases than [sanitize]
#
# racecheck cannot follow how a warp releases a stage of a ring, and reports every stage that is filled again: it needs a build of its
# own, with -Dracecheck=true (kernels/sched/release.cuh). It takes minutes for a case with all paths; sections (-c) run side by side.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${DSV4MX_BUILD:-$root/build}
binary=$build/tests/dsv4mx-gpu-tests
limit=${DSV4MX_LIMIT:-600}
cases=${DSV4MX_CASES:-[sanitize]}
tools=("$@")
[ ${#tools[@]} -gt 0 ] || tools=(memcheck racecheck synccheck initcheck)

find_sanitizer() {
  local candidate
  for candidate in "${DSV4MX_SANITIZER:-}" "$(command -v compute-sanitizer)" \
    /usr/local/cuda*/bin/compute-sanitizer /usr/local/cuda*/compute-sanitizer/compute-sanitizer; do
    [ -n "$candidate" ] && [ -x "$candidate" ] && echo "$candidate" && return
  done
  return 1
}

# Whether the build folder is known to lack what racecheck needs. (Programs carried elsewhere tell nothing.)
is_ordinary_build() {
  local options=$build/meson-info/intro-buildoptions.json
  [ -f "$options" ] && ! python3 -c 'import json, sys
sys.exit(not any(o["name"] == "racecheck" and o["value"] for o in json.load(open(sys.argv[1]))))' "$options"
}

sanitizer=$(find_sanitizer) || { echo 'sanitizer: skipped: needs compute-sanitizer (DSV4MX_SANITIZER)'; exit 2; }
[ -x "$binary" ] || { echo "sanitizer: $binary is missing: build the tree with CUDA first"; exit 2; }
logs=$build/sanitizer
mkdir -p "$logs"
bad=0

for tool in "${tools[@]}"; do
  log=$logs/$tool.log start=$SECONDS
  options=(--tool "$tool" --error-exitcode 42 --print-limit 20)
  # Leaks are not looked for: contexts and search cells live to the end of the process on purpose.
  if [ "$tool" = racecheck ]; then
    options+=(--racecheck-report all)
    if is_ordinary_build; then
      echo "sanitizer: racecheck: NOT RUN: $build was made without -Dracecheck=true"
      bad=1
      continue
    fi
  fi
  timeout --kill-after=10 "$limit" "$sanitizer" "${options[@]}" "$binary" "$cases" >"$log" 2>&1
  status=$?
  counts=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -n 1)
  errors=$(grep -E '^=+ (ERROR|RACECHECK) SUMMARY: ' "$log" | tail -n 1 | sed 's/^=* *//')
  verdict=ok
  case $status in
    0) ;;
    124 | 137) verdict="TIME LIMIT of $limit s" ;;
    42) verdict=ERRORS ;;
    *) verdict="FAILED with status $status" ;;
  esac
  # A run that saw no GPU or no case proves nothing.
  [[ $counts =~ ^([1-9][0-9]*)\ passed,\ 0\ failed,\ 0\ skipped$ ]] || [ "$verdict" != ok ] || verdict='NOTHING PROVED'
  [ "$verdict" = ok ] || bad=1
  echo "sanitizer: $tool: $verdict; ${errors:-no summary}; ${counts:-no counts}; $((SECONDS - start)) s; $log"
done
exit $bad
