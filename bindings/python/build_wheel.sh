#!/usr/bin/env bash
# Builds the wheel that carries the library, with the platform tag that auditwheel reports for it.
#
#   bindings/python/build_wheel.sh LIBRARY FOLDER      e.g. build/lib/libdsv4mx.so.0 dist
#
# Needs the packages build, hatchling, auditwheel and wheel in the python3 that is found.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
library=$(realpath "$1") folder=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$folder"

# A copy of its own: the build writes nothing into the tree, and symbols for debuggers stay out of the wheel.
cp "$library" "$work/libdsv4mx.so.0"
if command -v strip >/dev/null; then strip --strip-debug "$work/libdsv4mx.so.0"; fi
cp -r "$here" "$work/package"
find "$work/package" -name __pycache__ -prune -exec rm -rf {} +
cp "$here/../../LICENSE" "$work/package/"
DSV4MX_WHEEL_LIBRARY=$work/libdsv4mx.so.0 \
  python3 -m build --wheel --no-isolation --outdir "$work/dist" "$work/package" >"$work/log" 2>&1 ||
  { cat "$work/log" >&2; exit 1; }
wheel=$(echo "$work"/dist/*.whl)
tag=$(python3 -m auditwheel show "$wheel" | tr '\n' ' ' | grep -oE 'following platform tag: *"[^"]+"' | grep -oE '"[^"]+"' | tr -d '"')
[ -n "$tag" ] || { python3 -m auditwheel show "$wheel" >&2; exit 1; }
(cd "$work/dist" && python3 -m wheel tags --remove --platform-tag "$tag" "$wheel" >/dev/null)
cp "$work"/dist/*.whl "$folder/"
ls "$folder"/dsv4mx-*-"py3-none-$tag.whl"
