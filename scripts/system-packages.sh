#!/usr/bin/env bash
# Installs the Debian packages that the tests and benchmarks use: filesystem tools to make and check disks with, qemu-img, PostgreSQL,
# npm, and what `make images` builds with.
# Kumomori itself needs none of them. Does nothing where all are there; without root it says what to install.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
for folder in /usr/lib/postgresql/*/bin; do PATH="$PATH:$folder"; done  # Debian keeps a server's tools off the PATH

packages=(
  acl attr           # setfacl, setfattr
  buildah debootstrap  # container images without a registry
  btrfs-progs        # a filesystem to copy live disks on, and to recognise
  cryptsetup-bin     # LUKS headers to recognise
  dosfstools e2fsprogs fdisk gdisk mount ntfs-3g util-linux xfsprogs
  openssl            # a certificate for a server of the tests
  postgresql         # servers that the tests start and end themselves
  qemu-utils         # qemu-img, qemu-io
  clamav yara        # the commands that the benchmark compares with
)
tools=(setfacl setfattr buildah debootstrap mkfs.btrfs cryptsetup mkfs.vfat mke2fs debugfs e2fsck sfdisk sgdisk losetup mount mkfs.ntfs
  mkfs.xfs openssl initdb qemu-img qemu-io yara clamscan)

command -v npm >/dev/null || packages+=(nodejs npm)  # for osls, which deploys serverless.yml, and azurite; other builds of node bring their own npm
tools+=(npm)

missing=()
for tool in "${tools[@]}"; do command -v "$tool" >/dev/null || missing+=("$tool"); done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi

if ! command -v apt-get >/dev/null; then
  echo "Tests that need these tools are skipped: ${missing[*]}. This script knows Debian and its kin only." >&2
  exit 0
fi
run=()
if [ "$(id -u)" -ne 0 ]; then
  if ! sudo -n true 2>/dev/null; then
    echo "Tests that need these tools are skipped: ${missing[*]}. As root: apt-get install ${packages[*]}" >&2
    exit 0
  fi
  run=(sudo -n)
fi
echo "Installing Debian packages for the tests: ${missing[*]} …"
export DEBIAN_FRONTEND=noninteractive
"${run[@]}" apt-get -qq update
"${run[@]}" apt-get -qq install --yes --no-install-recommends "${packages[@]}" >/dev/null
