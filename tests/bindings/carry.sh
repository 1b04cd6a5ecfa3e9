#!/usr/bin/env bash
# Packs the conformance cases and the bindings' tests of all languages, built, for a machine that has a GPU but no compilers, no
# network and perhaps no packages: there tests/bindings/carried.sh runs them.
#
#   tests/bindings/carry.sh BUILD FILE.tar.xz [PYTHON]
#
# BUILD is a finished build folder with the CUDA backend. PYTHON, e.g. 3.12, takes the Python packages that the tests need along
# as wheels for that version, for a machine that lacks them (torch is not among them: its tests run where it is). On the machine:
#
#   mkdir FOLDER && tar -xf FILE.tar.xz -C FOLDER && FOLDER/run.sh
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$(realpath "$1") file=$(realpath -m "$2") python=${3:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/kit/tree
mkdir -p "$tree/build/lib" "$tree/build/examples" "$tree/build/tests/bindings" "$work/kit/rust" "$work/kit/go"
say() { printf 'carry: %s\n' "$*"; }

say 'C'
targets=(lib/libdsv4mx.so.0.1.0 examples/{checkpoint_make,minimal,ranks,moe_layer,model} tests/bindings/{cases_test,layout,overhead})
ninja --quiet -C "$build" "${targets[@]}"
for target in "${targets[@]}"; do strip -o "$tree/build/$target" "$build/$target"; done
ln -s libdsv4mx.so.0.1.0 "$tree/build/lib/libdsv4mx.so.0"

# What tests read beside their programs.
(cd "$root" && git ls-files --cached --others --exclude-standard -- bindings/cases.json bindings/python bindings/go bindings/rust \
  examples include tests/bindings README.md CHANGELOG.md | tar -cf - -T -) | tar -xf - -C "$tree"
cp "$root/tests/bindings/carried.sh" "$work/kit/run.sh"

say 'Rust'
# Its programs have the places of their sources and of the target folder in them: not those here, where another machine may have
# something else, but one that run.sh makes there.
place=/tmp/dsv4mx-carried
rm -rf "$place"
mkdir -p "$place" "$build/bindings/rust"
trap 'rm -rf "$work" "$place"' EXIT
cp -r "$tree" "$place/tree"
ln -s "$build/bindings/rust" "$place/target"
export CARGO_TARGET_DIR=$place/target CARGO_TERM_COLOR=never
cd "$place/tree/bindings/rust"
# built CARGO-ARGUMENTS...: name and path of every test and bench program.
built() {
  cargo "$@" --no-run --quiet --locked --message-format=json | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("reason") == "compiler-artifact" and message.get("executable"):
        print(message["target"]["kind"][0], message["target"]["name"], message["executable"])'
}
{
  built test -p dsv4mx --features cudarc,experimental --test all --test cuda --test leaks
  built bench -p dsv4mx --features cudarc,experimental --bench overhead
  built test -p dsv4mx-examples
} | while read -r kind name path; do
  case $kind in
    # Where CARGO_BIN_EXE_... of the examples' tests points.
    bin) mkdir -p "$tree/build/bindings/rust/debug" && strip -o "$tree/build/bindings/rust/debug/$name" "$CARGO_TARGET_DIR/debug/$name" ;;
    test | bench) strip -o "$work/kit/rust/$name" "$path" ;;
  esac
done
mkdir -p "$tree/build/bindings/rust/tmp"

say 'Go'
export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-buildvcs=false
for folder in bindings/go examples/go/{minimal,checkpoint,model,ranks,serve}; do
  (cd "$root/$folder" && go test -c -ldflags '-s -w' -o "$work/kit/go/${folder//\//_}" .)
done

if [ -n "$python" ]; then
  say "packages for Python $python"
  mapfile -t packages < <(grep -E '^(ml_dtypes|numpy|pytest)==' "$root/tests/bindings/requirements.txt")
  python3 -m pip --quiet --disable-pip-version-check download --only-binary=:all: --python-version "$python" --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --dest "$work/wheels" "${packages[@]}"
  mkdir "$work/kit/site"
  for wheel in "$work"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$work/kit/site"; done
  find "$work/kit/site" -type d -name tests -prune -exec rm -rf {} +
  echo "$python" >"$work/kit/site.version"
fi

mkdir -p "$(dirname "$file")"
tar -C "$work/kit" -cf - . | xz -T0 -3 >"$file.part"
mv "$file.part" "$file"
say "$file: $(stat -c %s "$file") bytes"
