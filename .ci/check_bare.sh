#!/usr/bin/env bash
# Runs the README's two commands where nothing is installed: a debootstrap of Debian 12 with only git, python3 and
# ca-certificates, and a clone of this repository's HEAD. Needs root, debootstrap and the network. The bare system is
# kept in FOLDER/base.tar and unpacked anew each time, so a second run only repeats the two commands. DSV4MX_CUDA and
# DSV4MX_JOBS hold inside too.
#
#   .ci/check_bare.sh FOLDER [MIRROR]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ $# -ge 1 ] || { echo "usage: $0 FOLDER [MIRROR]" >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "$0: debootstrap and chroot need root" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
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
    /etc/apt/sources.list.d /etc/apt/keyrings /etc/apt/trusted.gpg.d; do
    [ -e "$path" ] || continue
    mkdir -p "$system$(dirname "$path")"
    cp -aL --remove-destination "$path" "$system$(dirname "$path")/"
  done
  env | grep -E '^(https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY|PIP_(CERT|INDEX_URL|PROXY)|SSL_CERT_FILE|DSV4MX_(CUDA|JOBS))=' >"$folder/environment" || true
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
git clone --quiet --no-hardlinks "$root" "$system/root/dsv4mx"
inside git config --global --add safe.directory /root/dsv4mx

# What processors worked so far, into $processors: unlike the clock, it does not count what else runs on the machine.
read_processors() {
  times >"$folder/times"
  processors=$(awk 'NR == 2 {split($0, t, /[ms ]+/); print int(60 * t[1] + t[2] + 60 * t[3] + t[4])}' "$folder/times")
}

mapfile -t environment <"$folder/environment"
status=0
for command in examples/run.sh tests/run.sh; do
  start=$SECONDS
  read_processors
  worked=$processors verdict=passed
  echo "bare: $command"
  inside "${environment[@]}" bash -c "cd /root/dsv4mx && $command" 2>&1 | tee "$folder/$(basename "$(dirname "$command")").log" ||
    { verdict=FAILED; status=1; }
  read_processors
  echo "bare: $command: $verdict ($((SECONDS - start)) s, $((processors - worked)) s of processors)"
done
exit $status
