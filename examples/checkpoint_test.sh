#!/usr/bin/env bash
# Tests checkpoint_make and moe_layer together: every form of a checkpoint gives the right result, and every damaged or
# foreign one gives exactly one clear line on stderr and a non-zero exit.
#
#   examples/checkpoint_test.sh CHECKPOINT_MAKE MOE_LAYER
set -euo pipefail
export LC_ALL=C
make=$1 layer=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
passed=0 failed=0

good() {  # words of the command; its stdout must have the line of a judged error
  if "$@" >"$dir/out" 2>"$dir/err" && grep -q '^error .* relative L2' "$dir/out" && [ ! -s "$dir/err" ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $*"
    cat "$dir/out" "$dir/err"
  fi
}

bad() {  # text that stderr must contain, words of the command
  local want=$1 rc=0
  shift
  "$@" >"$dir/out" 2>"$dir/err" || rc=$?
  # 128 and above is a signal: a crash, not a refusal.
  if [ $rc -gt 0 ] && [ $rc -lt 128 ] && [ "$(wc -l <"$dir/err")" = 1 ] && grep -qF -- "$want" "$dir/err"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $* (exit $rc), wanted one line with: $want"
    cat "$dir/err"
  fi
}

"$make" "$dir/folder" >/dev/null
"$make" "$dir/five" --shards 5 --prefix model. --layer 12 --seed 7 --experts 5 --hidden 96 --intermediate 160 >/dev/null
"$make" "$dir/one.safetensors" --seed 3 --experts 24 --hidden 320 --intermediate 192 --threads 1 >/dev/null
"$make" "$dir/again.safetensors" --seed 3 --experts 24 --hidden 320 --intermediate 192 --threads 3 >/dev/null
if cmp -s "$dir/one.safetensors" "$dir/again.safetensors"; then
  passed=$((passed + 1))
else
  failed=$((failed + 1))
  echo "FAILED: the same seed gave another file with another number of threads"
fi

index=$dir/folder/model.safetensors.index.json
cpu=("$layer" --device cpu --tokens 16)
good "${cpu[@]}" "$dir/folder"
good "${cpu[@]}" "$index"
good "${cpu[@]}" "$dir/five" --layer 12 --top-k 4 --rsf 2.5 --clamp 0.5
good "${cpu[@]}" "$dir/five" --top-k 5 --tokens 1 --threads 1
good "${cpu[@]}" "$dir/one.safetensors" --top-k 16 --clamp 0 --tokens 33

one=$dir/one.safetensors
shard=$dir/folder/model-00001-of-00002.safetensors
bad "No such file or directory" "${cpu[@]}" "$dir/none"
bad "layers with experts: layers 12" "${cpu[@]}" "$dir/five" --layer 3
bad "mtp.0" "${cpu[@]}" "$dir/five" --layer -1
bad "the layer has 5 experts" "${cpu[@]}" "$dir/five"
bad "expected 1..16" "${cpu[@]}" "$one" --top-k 17
bad "what is '--nonsense'" "${cpu[@]}" "$one" --nonsense
bad "no checkpoint given" "${cpu[@]}"
bad "is missing" "${cpu[@]}" "$shard"
bad "expected multiples of 32" "$make" "$dir/x.safetensors" --hidden 100
bad "cannot create" "$make" "$dir/no/such/x.safetensors"

size=$(stat -c %s "$one")
for n in 0 7 8 100 5000 $((size / 2)) $((size - 1)); do
  head -c "$n" "$one" >"$dir/cut.safetensors"
  bad "$([ "$n" = 0 ] && echo "the file is empty" || echo "truncated")" "${cpu[@]}" "$dir/cut.safetensors"
done
{ cat "$one"; echo; } >"$dir/long.safetensors"
bad "1 bytes after the last tensor" "${cpu[@]}" "$dir/long.safetensors"
{ head -c 20 "$one"; printf '\xff'; tail -c +22 "$one"; } >"$dir/bit.safetensors"
bad "not valid JSON" "${cpu[@]}" "$dir/bit.safetensors"
sed '1s/"I8"/"F8"/' "$one" >"$dir/dtype.safetensors"
bad "unknown dtype 'F8'" "${cpu[@]}" "$dir/dtype.safetensors"
sed '1s/w3\.scale/w1.scale/' "$one" >"$dir/twice.safetensors"
bad "appears twice" "${cpu[@]}" "$dir/twice.safetensors"
echo "just some text in a file" >"$dir/text.safetensors"
bad "not a safetensors file" "${cpu[@]}" "$dir/text.safetensors"
printf 'PK\003\004%0100d' 0 >"$dir/pytorch_model.bin"
bad "PyTorch pickle" "${cpu[@]}" "$dir/pytorch_model.bin"
# The scale byte 255 is NaN: an all-ones block over the last expert's tensors.
cp "$one" "$dir/nan.safetensors"
head -c 2000 /dev/zero | tr '\0' '\377' | dd of="$dir/nan.safetensors" bs=1 seek=$((size - 24 * 320 * 2 - 24 * 4 - 2000)) conv=notrunc status=none
bad "255" "${cpu[@]}" "$dir/nan.safetensors"

cp "$index" "$dir/index.saved"
mv "$shard" "$shard.away"
bad "00001-of-00002.safetensors: cannot open" "${cpu[@]}" "$dir/folder"
mv "$shard.away" "$shard"
head -c 1000 "$dir/index.saved" >"$index"
bad "not valid JSON" "${cpu[@]}" "$dir/folder"
sed 's/00001-of/00002-of/' "$dir/index.saved" >"$index"
bad "is not in the shard that the index names" "${cpu[@]}" "$dir/folder"
rm "$index"
good "${cpu[@]}" "$dir/folder"
rm "$shard"
bad "1 of 2 shards" "${cpu[@]}" "$dir/folder"

echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
