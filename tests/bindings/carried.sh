#!/usr/bin/env bash
# Runs what tests/bindings/carry.sh packed, from the folder it was unpacked into: conformance cases and tests of C, Python, Rust
# and Go on the CPU and on the first GPU, then what a call costs. Needs bash and, for its part, python3 >= 3.10.
#
#   FOLDER/run.sh [PART ...]      tests costs (default), leaks, or c, python, rust, go, examples alone
#
#   DSV4MX_LOGS=DIR            where the logs go (default: logs/ in the folder)
#   DSV4MX_LEAK_PAIRS=N        of the part leaks (default 1000000)
#
# The last line is "N passed, N failed, N skipped".
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
place=/tmp/dsv4mx-carried # as in carry.sh
logs=${DSV4MX_LOGS:-$here/logs}
mkdir -p "$logs"
parts=${*:-tests costs}
passed=0 failed=0 skipped=0
export DSV4MX_LIBRARY=$here/tree/build/lib/libdsv4mx.so.0 DSV4MX_LAYOUT=$here/tree/build/tests/bindings/layout
export DSV4MX_CHECKPOINT_MAKE=$here/tree/build/examples/checkpoint_make RUST_BACKTRACE=1 PYTHONDONTWRITEBYTECODE=1
unset PYTHONPATH

wanted() { case " $parts " in *" $1 "* | *" $2 "*) ;; *) return 1 ;; esac }

# suite KIND NAME COMMAND...: starts it, for at most five minutes. All run beside each other, and `gather` tells of them.
names=()
suite() {
  names+=("$2")
  judge "$@" >"$logs/${2//[^A-Za-z0-9]/_}.said" 2>&1 &
}

# Counts the tests of a suite as its language prints them; the last line is "NAME: N passed, N failed, N skipped (N s)".
judge() {
  local kind=$1 name=$2 log=$logs/${2//[^A-Za-z0-9]/_}.log start=$SECONDS status=0 good bad none
  shift 2
  timeout 300 "$@" >"$log" 2>&1 || status=$?
  [ "$kind $status" != 'lines 5' ] || status=0 # pytest: all are skipped
  case $kind in
    lines) # "N passed, N failed, N skipped"
      read -r good bad none < <(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p' "$log" | tail -n 1) ||
        good=0 bad=0 none=0
      ;;
    rust)
      none=$(grep -c '^skipped: ' "$log")
      good=$(($(awk '/^test result: / { n += $4 } END { print n + 0 }' "$log") - none))
      bad=$(awk '/^test result: / { n += $6 } END { print n + 0 }' "$log")
      ;;
    go)
      good=$(grep -c '^ *--- PASS: ' "$log") bad=$(grep -c '^ *--- FAIL: ' "$log") none=$(grep -c '^ *--- SKIP: ' "$log")
      ;;
    program) good=$((status == 0)) bad=0 none=0 ;;
  esac
  good=${good:-0} bad=${bad:-0} none=${none:-0}
  [ "$status" = 0 ] || [ "$bad" -gt 0 ] || bad=1
  if [ $((good + bad + none)) = 0 ]; then bad=1; fi
  [ "$bad" = 0 ] || grep -vE '^ *(=== |--- PASS|test .* ok$)' "$log" | tail -n 60
  grep -h 'skipped: ' "$log" | sed 's/^.*skipped: /skipped: /' | sort -u | head -n 20
  echo "$name: $good passed, $bad failed, $none skipped ($((SECONDS - start)) s)"
}

gather() {
  local name said good bad none
  wait
  for name in "${names[@]}"; do
    said=$logs/${name//[^A-Za-z0-9]/_}.said
    cat "$said"
    read -r good bad none < <(sed -n '$s/^.*: \([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped .*/\1 \2 \3/p' "$said") ||
      good=0 bad=1 none=0
    passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + none))
    rm "$said"
  done
  names=()
}

# Programs of Rust look for their files there.
make_place() {
  rm -rf "$place"
  mkdir -p "$place" && ln -s "$here/tree" "$place/tree" && ln -s "$here/tree/build/bindings/rust" "$place/target"
}

# The machine's own Python with what it has, else with the packages that were carried.
find_python() {
  python=$(command -v python3) || return 1
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || return 1
  if ! "$python" -c 'import ml_dtypes, numpy, pytest' 2>/dev/null; then
    [ "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$(cat "$here/site.version" 2>/dev/null)" ] || return 1
    export PYTHONPATH=$here/site
    "$python" -c 'import ml_dtypes, numpy, pytest' || return 1
  fi
  export PYTHONPATH=$here/tree/bindings/python${PYTHONPATH:+:$PYTHONPATH}
}

make_place || exit 2
if ! find_python; then
  echo 'skipped: Python: no python3 >= 3.10 with ml_dtypes, numpy and pytest, nor of the version that was carried for'
  python='' skipped=$((skipped + 1))
fi
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo 'no nvidia-smi'

if wanted tests c; then
  suite lines 'C conformance' "$here/tree/build/tests/bindings/cases_test" "$here/tree/bindings/cases.json"
fi
if wanted tests python && [ -n "$python" ]; then
  cd "$here/tree" || exit 2
  # What takes longest is begun first, in three parts.
  run=("$python" -m pytest -q -p no:cacheprovider) torch=(tests/bindings/python/test_{torch,adapters}.py)
  suite lines 'Python torch' "${run[@]}" "${torch[@]}"
  suite lines 'Python cases' "${run[@]}" tests/bindings/python/test_cases.py
  suite lines 'Python' "${run[@]}" tests/bindings/python "${torch[@]/#/--ignore=}" --ignore=tests/bindings/python/test_cases.py
fi
if wanted tests rust; then
  cd "$place/tree/bindings/rust/dsv4mx" || exit 2
  for name in all cuda leaks; do DSV4MX_LEAK_PAIRS=20000 suite rust "Rust $name" "$here/rust/$name" --show-output; done
fi
if wanted tests go; then
  cd "$here/tree/bindings/go" || exit 2
  suite go 'Go' "$here/go/bindings_go" -test.v -test.run '^(Test|Example)'
fi
if wanted tests examples; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  make=$DSV4MX_CHECKPOINT_MAKE
  "$make" "$scratch/checkpoint" --hidden 256 --intermediate 128 --experts 16 >/dev/null
  "$make" "$scratch/model" --layers 3 --drafts 1 --experts 5 --hidden 96 --intermediate 160 --shards 3 >/dev/null
  export DSV4MX_CHECKPOINT=$scratch/checkpoint DSV4MX_MODEL=$scratch/model
  cd "$place/tree/examples/rust" || exit 2
  for name in programs serve; do suite rust "Rust example $name" "$here/rust/$name" --show-output; done
  for name in minimal checkpoint model ranks serve; do
    cd "$here/tree/examples/go/$name" || exit 2
    suite go "Go example $name" "$here/go/examples_go_$name" -test.v
  done
  programs=(minimal 'ranks 4') ranks=(4)
  # Several ranks share the first GPU where there is one alone.
  if [ -e /dev/nvidiactl ]; then programs+=('ranks --device cuda 2' 'ranks --device cuda 4 2') ranks+=('--device cuda 4'); fi
  for program in "${programs[@]}"; do
    # shellcheck disable=SC2086
    suite program "C example $program" "$here/tree/build/examples/"$program
  done
  if [ -n "$python" ]; then
    suite program 'Python example minimal' "$python" "$here/tree/examples/python/minimal.py"
    for words in "${ranks[@]}"; do
      # shellcheck disable=SC2086
      suite program "Python example ranks $words" "$python" "$here/tree/examples/python/ranks.py" $words
    done
    suite program 'Python example checkpoint' "$python" "$here/tree/examples/python/checkpoint.py" "$DSV4MX_CHECKPOINT"
  fi
fi
gather
if wanted leaks leaks; then
  export DSV4MX_LEAK_PAIRS=${DSV4MX_LEAK_PAIRS:-1000000}
  suite rust 'Rust leaks' timeout 600 "$here/rust/leaks" --show-output
  cd "$here/tree/bindings/go" || exit 2
  suite go 'Go leaks' "$here/go/bindings_go" -test.v -test.run Leak -test.timeout 0
  cd "$here/tree" || exit 2
  [ -z "$python" ] || suite lines 'Python leaks' "$python" -m pytest -q -s -p no:cacheprovider tests/bindings/python/test_leaks.py
  gather
  grep -hE 'pairs|times:' "$logs"/*leaks.log
fi
if wanted costs costs; then
  devices=cpu
  [ -e /dev/nvidiactl ] && devices='cpu cuda'
  for device in $devices; do
    echo "what a call costs, $device:"
    timeout 120 "$here/tree/build/tests/bindings/overhead" "$device" | tee "$logs/costs_c_$device.log"
    [ -z "$python" ] || timeout 200 "$python" "$here/tree/tests/bindings/python/overhead.py" "$device" | tee "$logs/costs_python_$device.log"
  done
  echo 'Rust:'
  timeout 120 "$here/rust/overhead" 2>&1 | tee "$logs/costs_rust.log"
  echo 'Go:'
  cd "$here/tree/bindings/go" || exit 2
  timeout 200 "$here/go/bindings_go" -test.v -test.run TestOverheadCUDA -test.bench . -test.cpu 1 -test.benchtime 100ms -test.count 5 2>&1 |
    grep -E 'Benchmark|host spends|^---' | tee "$logs/costs_go.log"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
