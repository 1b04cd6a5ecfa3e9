#!/usr/bin/env bash
# Tests of the Rust binding. One target folder in the build folder serves all parts.
#
#   tests/bindings/rust.sh BUILD LIBRARY PART
#
#   tests     both crates and the examples, with conformance cases, lookup and leak checks
#   device    what a device changes, with a library that has one
#   style     rustfmt, clippy and rustdoc without warnings, and the oldest Rust that the crates promise
#   package   both crates as they would be published, in a new project: the README's quick start; and the feature `link`
#
# Exit status 77 is "skipped": no cargo that is new enough. With DSV4MX_REQUIRE_TOOLCHAINS=1 that is a failure.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$1 library=$2 part=$3
oldest=1.85
export CARGO_TARGET_DIR=$build/bindings/rust CARGO_TERM_COLOR=never
# Nobody debugs these programs (a fifth of the compiler's time), and CI never compiles a crate a second time.
export CARGO_PROFILE_DEV_DEBUG=0
[ "${DSV4MX_REQUIRE_TOOLCHAINS:-0}" = 0 ] || export CARGO_INCREMENTAL=0
export RUST_BACKTRACE=0 DSV4MX_LIBRARY=$library DSV4MX_CHECKPOINT_MAKE=$build/examples/checkpoint_make

skip() {
  echo "skipped: $1"
  [ "${DSV4MX_REQUIRE_TOOLCHAINS:-0}" = 1 ] && exit 1
  exit 77
}
found=$(cargo --version 2>/dev/null | cut -d ' ' -f 2) || found=none
[ -n "$found" ] || found=none
if [ "$found" = none ] || [ "$(printf '%s\n' "$oldest" "$found" | sort -V | head -n 1)" != "$oldest" ]; then
  skip "the Rust binding needs cargo >= $oldest, found $found"
fi
cd "$root/bindings/rust"
features=(--workspace --features 'dsv4mx/experimental dsv4mx-sys/experimental')

case $part in
  tests | device) # of `device`, LIBRARY is one whose device is emulated
    log=$CARGO_TARGET_DIR/$part.log
    mkdir -p "$CARGO_TARGET_DIR"
    arguments=("${features[@]}") words=()
    if [ "$part" = device ]; then
      arguments+=(--test all --test programs)
      words=(on_a_gpu gpus ranks)
      export DSV4MX_EMULATED_DEVICES=2
    fi
    status=0
    cargo test --quiet --locked --no-fail-fast "${arguments[@]}" -- --show-output "${words[@]}" >"$log" 2>&1 || status=$?
    grep -E '^skipped: ' "$log" || true
    grep -E '^[0-9]+ requests in |: [0-9]+ pairs, |^[0-9]+ cases' "$log" || true
    # What failed; of an error of the compiler there is no such part.
    [ $status -eq 0 ] || sed -n '/^failures:/,/^test result/p' "$log" | head -n 200
    [ $status -eq 0 ] || grep -qE '^failures:' "$log" || tail -n 100 "$log"
    # A test that prints "skipped: " has returned early.
    awk '/^skipped: / { skipped++ }
      /^test result: / { passed += $4; failed += $6 }
      END { printf "%d passed, %d failed, %d skipped\n", passed - skipped, failed, skipped }' "$log"
    if [ "$part" = device ] && grep -q '^skipped: no CUDA device' "$log"; then exit 1; fi
    exit $status
    ;;
  style)
    cargo fmt --check
    cargo fmt --check --manifest-path ../generator/rust/Cargo.toml
    cargo clippy --quiet --locked "${features[@]}" --all-targets -- -D warnings
    cargo clippy --quiet --locked -p dsv4mx --features cudarc,experimental --lib --test cuda -- -D warnings
    RUSTDOCFLAGS='-D warnings' cargo doc --quiet --locked --no-deps -p dsv4mx-sys -p dsv4mx \
      --features dsv4mx/cudarc,dsv4mx/experimental
    passed=4 skipped=0
    if [ "${DSV4MX_REQUIRE_TOOLCHAINS:-0}" = 1 ] && command -v rustup >/dev/null; then
      rustup toolchain install "$oldest.0" --profile minimal --no-self-update >/dev/null 2>&1 || true
    fi
    if rustup run "$oldest.0" cargo --version >/dev/null 2>&1; then
      cargo "+$oldest.0" check --quiet --locked -p dsv4mx-sys -p dsv4mx --features dsv4mx/experimental
      passed=$((passed + 1))
    else
      echo "skipped: Rust $oldest itself: needs rustup toolchain install $oldest.0"
      skipped=1
    fi
    echo "$passed passed, 0 failed, $skipped skipped"
    ;;
  package)
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cargo package --quiet --locked --allow-dirty --no-verify -p dsv4mx-sys -p dsv4mx
    # A registry of these two and what they need.
    cargo vendor --quiet --locked "$work/registry" >/dev/null
    for crate in "$CARGO_TARGET_DIR"/package/dsv4mx*.crate; do
      echo "$(basename "$crate"): $(stat -c %s "$crate") bytes"
      tar -C "$work/registry" -xf "$crate"
      echo '{"files":{}}' >"$work/registry/$(basename "$crate" .crate)/.cargo-checksum.json"
    done

    # A new project, as the README says.
    start=$SECONDS
    mkdir "$work/program"
    cd "$work/program"
    cargo init --quiet --vcs none --name program
    mkdir .cargo
    printf '[source.crates-io]\nreplace-with = "here"\n[source.here]\ndirectory = "%s"\n' "$work/registry" >.cargo/config.toml
    cargo add --quiet dsv4mx
    # shellcheck disable=SC2016
    sed -n '/^```rust$/,/^```$/p' "$(echo "$work"/registry/dsv4mx-[0-9]*)/README.md" | sed '1d;$d' >src/main.rs
    diff src/main.rs "$root/examples/rust/src/bin/minimal.rs"
    cargo run --quiet
    echo "from nothing to the first result: $((SECONDS - start)) s"

    # Without the library every place is named.
    if env -u DSV4MX_LIBRARY -u LD_LIBRARY_PATH cargo run --quiet 2>err; then
      echo "the system's own library was used"
    else
      grep -F 'libdsv4mx.so.0: no such file' err
    fi

    cd "$root/bindings/rust"
    PKG_CONFIG_PATH=$build/meson-uninstalled LD_LIBRARY_PATH=$(dirname "$library") \
      cargo test --quiet --locked -p dsv4mx-sys --no-default-features --features link,experimental --test linked
    ;;
  *)
    echo "rust.sh: what is '$part'?" >&2
    exit 2
    ;;
esac
