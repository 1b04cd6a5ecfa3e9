#!/usr/bin/env bash
# Builds the wheel that carries the library, with the platform tag that auditwheel reports for it.
#
#   bindings/python/build_wheel.sh LIBRARY FOLDER      e.g. build/lib/libdsv4mx.so.0 dist
#
# Needs the packages build, hatchling, auditwheel and wheel: those of the python3 that is found, or else an environment of
# its own, which it makes and removes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
library=$(realpath "$1") folder=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$folder"

# From elsewhere: here a folder build/ would pass for the package.
if ! (cd / && python3 -c 'import auditwheel, build, hatchling, wheel') 2>/dev/null; then
  echo 'build_wheel.sh: getting build, hatchling, auditwheel and wheel from PyPI for this run' >&2
  python3 -m venv "$work/venv"
  grep -E '^(build|hatchling|auditwheel|wheel)==' "$here/../../tests/bindings/requirements.txt" >"$work/requirements.txt"
  "$work/venv/bin/python" -m pip --quiet --disable-pip-version-check install --requirement "$work/requirements.txt"
  PATH=$work/venv/bin:$PATH
fi

# A copy of its own: the build writes nothing into the tree, and symbols for debuggers stay out of the wheel.
cp "$library" "$work/libdsv4mx.so.0"
if command -v strip >/dev/null; then strip --strip-debug "$work/libdsv4mx.so.0"; fi
cp -r "$here" "$work/package"
find "$work/package" -name __pycache__ -prune -exec rm -rf {} +
cp "$here/../../LICENSE" "$work/package/"
(cd "$work" && DSV4MX_WHEEL_LIBRARY=$work/libdsv4mx.so.0 \
  python3 -m build --wheel --no-isolation --outdir "$work/dist" "$work/package") >"$work/log" 2>&1 ||
  { cat "$work/log" >&2; exit 1; }
wheel=$(echo "$work"/dist/*.whl)
tag=$(python3 -m auditwheel show "$wheel" | tr '\n' ' ' | grep -oE 'following platform tag: *"[^"]+"' | grep -oE '"[^"]+"' | tr -d '"')
[ -n "$tag" ] || { python3 -m auditwheel show "$wheel" >&2; exit 1; }
(cd "$work/dist" && python3 -m wheel tags --remove --platform-tag "$tag" "$wheel" >/dev/null)
cp "$work"/dist/*.whl "$folder/"
ls "$folder"/dsv4mx-*-"py3-none-$tag.whl"
