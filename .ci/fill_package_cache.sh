#!/usr/bin/env bash
# Fills a Meson package cache with the archives of this tree's wraps, from Debian's source packages: many of those hold the
# very archive of the release, which the wrap's hash proves. So wraps can be tested where only Debian is reachable. Prints
# the wraps that it served; those that no suite holds (any more) are left out. Of zstd Debian has the release without some
# files, as an archive of its own: beside it a copy of the wrap with its hash goes into the folder, to stand in for the tree's.
#
# Crates of Rust and modules of Go are not in it: cargo and go have caches of their own, and hold what they download against
# Cargo.lock and go.sum. `cargo fetch --locked` and `go mod download` fill those where there is a network.
#
#   .ci/fill_package_cache.sh FOLDER
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
mkdir -p "$1"
cache=$(cd "$1" && pwd)

# Lists of its own: the machine's are left as they are.
apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
for suite in trixie sid; do
  echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main"
done >"$apt/sources.list"
options=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$apt/lists"
  -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
apt-get "${options[@]}" update

for pair in abseil-cpp:abseil nlohmann_json:nlohmann-json3 catch2:catch2; do
  wrap=$root/lib/subprojects/${pair%%:*}.wrap package=${pair##*:}
  hash=$(sed -n 's/^source_hash = //p' "$wrap")
  file=
  for version in $(apt-cache "${options[@]}" showsrc "$package" | awk -v hash="$hash" '/^Version:/ {v = $2} $1 == hash {print v}' | sort -u); do
    (cd "$apt" && apt-get "${options[@]}" source --download-only --tar-only "$package=$version") 2>/dev/null || continue
    file=$(cd "$apt" && sha256sum ./*.orig.tar.* | awk -v hash="$hash" '$1 == hash {print $2; exit}')
  done
  [ -n "$file" ] || continue
  cp "$apt/$file" "$cache/$(sed -n 's/^source_filename = //p' "$wrap")"
  echo "${pair%%:*}"
done

wrap=$root/lib/subprojects/zstd.wrap
filename=$(sed -n 's/^source_filename = //p' "$wrap") version=$(sed -n 's/^directory = zstd-//p' "$wrap")
package=$(apt-cache "${options[@]}" showsrc libzstd | awk -v version="$version" '/^Version:/ && index($2, version "+dfsg") == 1 {found = $2} END {print found}')
if [ -n "$package" ] && (cd "$apt" && apt-get "${options[@]}" source --download-only --tar-only "libzstd=$package"); then
  xz --decompress --stdout "$apt"/libzstd_*.orig.tar.xz | gzip --no-name >"$cache/$filename"
  hash=$(sha256sum "$cache/$filename")
  sed "s/^source_hash = .*/source_hash = ${hash%% *}/" "$wrap" >"$cache/zstd.wrap"
  echo zstd
fi
