#!/bin/sh
# The public ABI against its committed baseline: functions and every type they reach. Any difference fails, additions
# too: a change of the ABI re-blesses the baseline in the same commit (`ninja -C build abi-bless`).
# usage: abidiff.sh [--bless] BASELINE INCLUDE_DIR LIBRARY_WITH_DEBUG_INFO
set -eu
bless=no
if [ "$1" = --bless ]; then
  bless=yes
  shift
fi
baseline=$1 include=$2 library=$3
if ! command -v abidw >/dev/null || ! command -v abidiff >/dev/null; then
  echo "skipped: abidw and abidiff are not installed (Debian: abigail-tools)"
  exit 77
fi
dump=$(mktemp)
trap 'rm -f "$dump"' EXIT
# No path and no architecture of the building machine in the baseline.
abidw --headers-dir "$include" --drop-private-types --no-corpus-path --no-comp-dir-path --no-show-locs \
  --out-file "$dump" "$library"
sed -i "s#path='[^']*/lib/#path='lib/#" "$dump"
if [ $bless = yes ]; then
  cp "$dump" "$baseline"
  echo "blessed $baseline"
  exit 0
fi
if [ ! -f "$baseline" ]; then
  echo "no baseline $baseline: make one with the abi-bless target"
  exit 1
fi
if abidiff "$baseline" "$dump"; then
  echo "the ABI is that of $baseline"
else
  echo "the ABI differs from $baseline: intended changes are blessed with the abi-bless target"
  exit 1
fi
