#!/bin/sh
# Checks the models of the protocol with Spin, and that a wrong protocol is found out. Needs spin and a C compiler.
set -eu
models=$(cd "$(dirname "$0")" && pwd)
if ! command -v spin >/dev/null 2>&1; then
  echo "skipped: spin is not installed (Debian: spin)"
  exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
passed=0
failed=0

# check WANTED MODEL FLAGS...: WANTED is "holds" or "fails".
check() {
  wanted=$1
  model=$2
  shift 2
  rm -f pan* ./*.trail
  spin "$@" -a "$models/$model.pml" >spin.log 2>&1 || cat spin.log
  ${CC:-cc} -O2 -DSAFETY -DCOLLAPSE -DVECTORSZ=4096 -o pan pan.c 2>cc.log
  ./pan -m1000000 >pan.log || true
  if grep -q 'errors: 0' pan.log && ! grep -q 'max search depth too small' pan.log; then got=holds; else got=fails; fi
  states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' pan.log)
  if [ "$got" = "$wanted" ]; then
    passed=$((passed + 1))
    echo "$model $*: $got, as it must ($states states)"
  else
    failed=$((failed + 1))
    echo "$model $*: $got, wanted $wanted"
    cat spin.log pan.log
  fi
}

check holds ep -DR=2 -DROUNDS=4
check holds ep -DR=3 -DROUNDS=2 -DMERGED
check fails ep -DR=2 -DROUNDS=3 -DFLAG_ONLY_WITH_ROWS
check holds tp -DR=2 -DROUNDS=5
check holds tp -DR=3 -DROUNDS=3
check fails tp -DR=2 -DROUNDS=3 -DBUFFERS=1
check holds tp -DR=2 -DROUNDS=4 -DTWICE
check holds tp -DR=3 -DROUNDS=2 -DTWICE
check holds fault -DR=2 -DROUNDS=3
check holds fault -DR=3 -DROUNDS=2
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
