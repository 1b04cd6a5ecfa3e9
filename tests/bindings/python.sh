#!/usr/bin/env bash
# Tests of the Python binding, in an environment that is made once in the build folder.
#
#   tests/bindings/python.sh BUILD LIBRARY LAYOUT PART
#
#   tests     the package, with conformance cases and leak checks
#   device    what a device changes, with a library that has one
#   types     mypy --strict, ruff
#   cases     bindings/cases.json is what bindings/generator/make_cases.py makes
#   examples  examples/python
#   package   the wheel, installed into a new environment, runs the README's quick start
#
# DSV4MX_PYTHON names another interpreter for `tests` and `examples`, e.g. one with torch.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$1 library=$2 layout=$3 part=$4
venv=$build/bindings/python-venv
requirements=$root/tests/bindings/requirements.txt
mkdir -p "$build/bindings"

# The parts may start together: the first one makes the environment.
exec 9>"$build/bindings/python-venv.lock"
flock 9
if ! cmp -s "$requirements" "$venv/.installed"; then
  python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    { echo "skipped: the Python binding needs python3 >= 3.10 with venv"; exit 77; }
  python3 -m venv --clear "$venv"
  "$venv/bin/python" -m pip --quiet --disable-pip-version-check install --requirement "$requirements"
  cp "$requirements" "$venv/.installed"
fi
flock -u 9

python=${DSV4MX_PYTHON:-$venv/bin/python}
export PYTHONDONTWRITEBYTECODE=1
unset PYTHONPATH
here=$root/tests/bindings/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pytest=("$python" -m pytest -q -p no:cacheprovider --basetemp "$work/pytest")

case $part in
  tests)
    export DSV4MX_LIBRARY=$library DSV4MX_LAYOUT=$layout PYTHONPATH=$root/bindings/python
    cd "$root"
    "${pytest[@]}" "$here"
    ;;
  device) # LIBRARY is one whose device is emulated
    export DSV4MX_LIBRARY=$library DSV4MX_LAYOUT=$layout PYTHONPATH=$root/bindings/python
    cd "$root"
    "$python" -c 'import dsv4mx; dsv4mx.Context("cuda")'
    DSV4MX_EMULATED_DEVICES=2 "$python" examples/python/ranks.py --device cuda 4
    "$python" examples/python/ranks.py --device cuda 2
    export DSV4MX_EMULATED_DEVICES=2
    "${pytest[@]}" -k 'cuda or context' "$here"/test_{cases,layer,experts,checkpoint,comm}.py
    ;;
  types)
    cd "$root/bindings/python"
    "$venv/bin/mypy" --cache-dir "$build/bindings/mypy"
    cd "$root"
    folders=(bindings/python bindings/generator tests/bindings examples/python)
    "$venv/bin/ruff" check --no-cache --config bindings/python/pyproject.toml "${folders[@]}"
    "$venv/bin/ruff" format --check --no-cache --config bindings/python/pyproject.toml "${folders[@]}"
    ;;
  cases)
    export DSV4MX_LIBRARY=$library
    "$venv/bin/python" "$root/bindings/generator/make_cases.py" --check
    ;;
  examples)
    export DSV4MX_LIBRARY=$library PYTHONPATH=$root/bindings/python
    "$python" "$root/examples/python/minimal.py"
    for ranks in 1 2 4 8; do "$python" "$root/examples/python/ranks.py" "$ranks"; done
    if "$python" -c 'import torch' 2>/dev/null; then
      "$python" "$root/examples/python/ranks_torch.py" --device cpu --meet gather 2
    fi
    "$build/examples/checkpoint_make" "$work/folder" >/dev/null
    "$python" "$root/examples/python/checkpoint.py" "$work/folder" --device cpu 2>"$work/err"
    [ ! -s "$work/err" ] || { echo "progress went to a file:"; cat "$work/err"; exit 1; }
    # On a terminal it shows how far it is. A chroot without /dev/pts has none.
    terminal=yes
    script -qec true /dev/null >/dev/null 2>&1 || { terminal=no; echo "no pseudo-terminal here: progress is not looked at"; }
    shows() { # PATTERN COMMAND
      [ $terminal = yes ] || return 0
      script -qec "$2" "$work/terminal" >"$work/shown"
      grep -q "$1" "$work/shown" || { echo "no progress on a terminal:"; cat "$work/shown"; return 1; }
    }
    shows 'load .*100%' "'$python' '$root/examples/python/checkpoint.py' '$work/folder' --device cpu"
    if "$python" "$root/examples/python/checkpoint.py" "$work/none" >"$work/out" 2>"$work/err"; then exit 1; fi
    [ "$(wc -l <"$work/err")" = 1 ] && grep -q IO_ERROR "$work/err"
    "$root/examples/model_test.sh" "$build/examples/checkpoint_make" "$python" "$root/examples/python/model.py"
    "$build/examples/checkpoint_make" "$work/model" --layers 2 --experts 5 --hidden 96 --intermediate 160 >/dev/null
    shows '#\] *100% layers.4' "'$python' '$root/examples/python/model.py' '$work/model' --device cpu"
    ;;
  package)
    wheel=$(PATH=$venv/bin:$PATH "$root/bindings/python/build_wheel.sh" "$library" "$work/dist")
    echo "$(basename "$wheel"): $(stat -c %s "$wheel") bytes"
    start=$SECONDS
    python3 -m venv "$work/venv"
    "$work/venv/bin/python" -m pip --quiet --disable-pip-version-check install "$wheel"
    # The quick start as it stands in the README.
    # shellcheck disable=SC2016
    sed -n '/^```python$/,/^```$/p' "$root/bindings/python/README.md" | sed '1d;/^```$/,$d' >"$work/quick_start.py"
    diff <(sed -n '/^import/,$p' "$root/examples/python/minimal.py") "$work/quick_start.py"
    cd "$work"
    unset DSV4MX_LIBRARY LD_LIBRARY_PATH
    venv/bin/python quick_start.py
    echo "from nothing to the first result: $((SECONDS - start)) s"
    found=$(venv/bin/python -m dsv4mx --library)
    case $found in "$work"/venv/*) ;; *) echo "found $found, wanted the wheel's own library"; exit 1 ;; esac
    venv/bin/python -c 'import dsv4mx; dsv4mx.show_versions()'
    ;;
  *)
    echo "python.sh: what is '$part'?" >&2
    exit 2
    ;;
esac
