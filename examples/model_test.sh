#!/usr/bin/env bash
# Tests a `model` example of any language on a small model of three layers and a draft block: a table with every layer and
# its total, and one line and a non-zero exit for what cannot be loaded.
#
#   examples/model_test.sh CHECKPOINT_MAKE MODEL [WORDS of the command before the folder...]
set -euo pipefail
export LC_ALL=C
make=$1
shift
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() {
  echo "FAILED: $*"
  cat "$dir/out" "$dir/err" 2>/dev/null
  exit 1
}

"$make" "$dir/model" --layers 3 --drafts 1 --experts 5 --hidden 96 --intermediate 160 --shards 3 --prefix model. >/dev/null
"$@" "$dir/model" --device cpu >"$dir/out" 2>"$dir/err" || fail "exit $?"
[ ! -s "$dir/err" ] || fail "something on stderr"
grep -q '^4 layers with experts, 0\.0[0-9]* GB, all loaded together$' "$dir/out" || fail "no line of the whole model"
# layer, bytes, seconds, GB/s: each row, and their sum.
awk 'NR == 1 {next}
     NR == 2 {if ($1 != "layer" || $4 != "GB/s") exit 1; next}
     NF != 4 || $2 <= 0 || $3 !~ /^[0-9]+\.[0-9]+$/ {exit 1}
     $1 == "total" {good = ($2 == sum && names == " model3 model4 model5 mtp0"); next}
     {sum += $2; names = names " " ($1 ~ /^layers/ ? "model" : "mtp") substr($1, index($1, ".") + 1)}
     END {exit !good}' "$dir/out" || fail "the table"

refused() { # text that stderr must have; the rest is the command
  local want=$1 rc=0
  shift
  "$@" >"$dir/out" 2>"$dir/err" || rc=$?
  if [ $rc -eq 0 ] || [ $rc -ge 128 ]; then fail "exit $rc: $*"; fi
  if [ "$(wc -l <"$dir/err")" != 1 ] || ! grep -qF -- "$want" "$dir/err"; then fail "wanted one line with: $want"; fi
}
refused "No such file" "$@" "$dir/none" --device cpu
rm "$dir/model/model-00003-of-00003.safetensors"
refused "model-00003-of-00003.safetensors" "$@" "$dir/model" --device cpu
echo "1 passed, 0 failed, 0 skipped"
