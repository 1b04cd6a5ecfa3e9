#!/usr/bin/env bash
# Tests of the Go binding.
#
#   tests/bindings/go.sh BUILD LIBRARY PART
#
#   tests     the module without cgo, the examples, and the cgo form under the race detector
#   device    what a device changes, with a library that has one
#   style     gofmt, go vet, staticcheck
#   package   the module as it would be published, through a file proxy in a clean folder: the README's quick start
#
# Exit status 77 is "skipped": no Go that is new enough. With DSV4MX_REQUIRE_TOOLCHAINS=1 that is a failure.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$(realpath "$1") library=$(realpath "$2") part=$3
oldest=1.25
work=$build/bindings/go
mkdir -p "$work"
# No toolchain is downloaded, and nothing is asked of git.
export GOTOOLCHAIN=local GOFLAGS=-buildvcs=false
export DSV4MX_LIBRARY=$library DSV4MX_CHECKPOINT=$work/checkpoint DSV4MX_MODEL=$work/model

skip() {
  echo "skipped: $1"
  [ "${DSV4MX_REQUIRE_TOOLCHAINS:-0}" = 1 ] && exit 1
  exit 77
}
found=$(cd / && go env GOVERSION 2>/dev/null) || found=gonone
if [ "$(printf '%s\n' "$oldest" "${found#go}" | sort -V | head -n 1)" != "$oldest" ] || [ "$found" = gonone ]; then
  skip "the Go binding needs Go >= $oldest, found ${found#go}"
fi
passed=0 failed=0 skipped=0

# suite NAME FOLDER ARGUMENTS...: go test, its tests counted one by one; figures that they log are shown.
suite() {
  local name=$1 folder=$2 log=$work/$part.log start=$SECONDS status=0 good bad none
  shift 2
  (cd "$folder" && go test -v -count=1 "$@") >"$log" 2>&1 || status=$?
  good=$(grep -c '^ *--- PASS: ' "$log") bad=$(grep -c '^ *--- FAIL: ' "$log") none=$(grep -c '^ *--- SKIP: ' "$log")
  if [ "$status" != 0 ]; then
    [ "$bad" -gt 0 ] || bad=1 # it did not compile, or crashed
    grep -v '^ *\(=== \|--- PASS\)' "$log" | tail -n 80
  elif [ "$good" = 0 ]; then
    bad=1
    echo "$name: no test ran"
  fi
  grep -hE '_test.go:[0-9]+: .*(p99|pairs and applies|failing calls)' "$log" | sed 's/^ *[a-z_]*_test.go:[0-9]*: //'
  grep -h 'skipped: ' "$log" | sed 's/^.*skipped: /skipped: /' | sort -u
  awk '/_test\.go:[0-9]+: / { why = $0; sub(/^.*_test\.go:[0-9]+: /, "", why) }
    /^ *--- SKIP: / { print "skipped: " $3 ": " why }' "$log"
  passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + none))
  echo "$name: $good passed, $bad failed, $none skipped ($((SECONDS - start)) s)"
}

# check NAME COMMAND...: one check, counted once.
check() {
  local name=$1 start=$SECONDS out
  shift
  if out=$("$@" 2>&1); then
    passed=$((passed + 1))
    echo "$name: passed ($((SECONDS - start)) s)"
  else
    failed=$((failed + 1))
    printf '%s\n' "$out" | tail -n 60
    echo "$name: FAILED ($((SECONDS - start)) s)"
  fi
}

formatted() {
  local bad
  bad=$(gofmt -l "$root/bindings/go" "$root/examples/go")
  [ -z "$bad" ] || { echo "not formatted: $bad"; return 1; }
}

vet() {
  (cd "$root/bindings/go" && go vet ./... && go vet -tags dsv4mx_cgo ./...) && (cd "$root/examples/go" && go vet ./...)
}

static() {
  local tool=$work/tools/staticcheck
  [ -x "$tool" ] || GOBIN=$work/tools go install honnef.co/go/tools/cmd/staticcheck@v0.8.2 || return 1
  (cd "$root/bindings/go" && "$tool" ./... && "$tool" -tags dsv4mx_cgo ./...) && (cd "$root/examples/go" && "$tool" ./...)
}

case $part in
  tests)
    [ -f "$DSV4MX_CHECKPOINT/model.safetensors.index.json" ] ||
      "$build/examples/checkpoint_make" "$DSV4MX_CHECKPOINT" --hidden 256 --intermediate 128 --experts 16 >/dev/null || exit 1
    "$build/examples/checkpoint_make" "$DSV4MX_MODEL" --layers 3 --drafts 1 --experts 5 --hidden 96 --intermediate 160 \
      --shards 3 >/dev/null || exit 1
    CGO_ENABLED=0 suite 'without cgo' "$root/bindings/go" ./...
    CGO_ENABLED=0 suite examples "$root/examples/go" ./...
    if command -v "${CC:-cc}" >/dev/null; then
      CGO_ENABLED=1 DSV4MX_LEAK_PAIRS=500 suite 'cgo, race detector' "$root/bindings/go" -tags dsv4mx_cgo -race -short ./...
    else
      echo 'skipped: the cgo form needs a C compiler'
      skipped=$((skipped + 1))
    fi
    ;;
  device) # LIBRARY is one whose device is emulated
    CGO_ENABLED=0 suite 'with a device' "$root/bindings/go" -skip 'Leaks|ErrorTexts|Overhead' .
    if grep -q 'on a GPU: there is none\|needs a CUDA device' "$work/device.log"; then
      echo 'the library shows no device' && exit 1
    fi
    CGO_ENABLED=0 DSV4MX_EMULATED_DEVICES=2 suite 'ranks on two devices' "$root/bindings/go" -run 'Comm.*(Bits|GPU)' .
    CGO_ENABLED=0 DSV4MX_EMULATED_DEVICES=2 suite 'example ranks on two devices' "$root/examples/go/ranks" .
    ;;
  style)
    check gofmt formatted
    check 'go vet' vet
    check staticcheck static
    ;;
  package)
    python3 "$root/tests/bindings/go_package.py" "$work/package" || exit 1
    passed=1
    ;;
  *)
    echo "go.sh: what is '$part'?" >&2
    exit 2
    ;;
esac
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
