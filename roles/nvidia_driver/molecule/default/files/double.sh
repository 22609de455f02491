#!/bin/sh
# DOUBLE of a booted kernel with a GPU and NVIDIA's module: at every boot it shows, below /proc and /sys, the newest kernel that is
# installed, the version of the module that modinfo reads from that kernel's files, and one GPU (A100, 10de:20b0). Nothing else
# is replaced: packages, DKMS, modules on disk, apt and the reboot are real.
set -eu
d=/srv/double
kernel=$(find /boot -name 'vmlinuz-*' | sed 's,.*/vmlinuz-,,' | sort -V | tail -n 1)
mkdir -p $d/driver/nvidia $d/pci/0000:65:00.0
echo 0x030200 > $d/pci/0000:65:00.0/class
echo 0x10de > $d/pci/0000:65:00.0/vendor
[ -e $d/pci/0000:65:00.0/device ] || echo 0x20b0 > $d/pci/0000:65:00.0/device
echo "${kernel:-$(uname -r)}" > $d/osrelease
: > $d/driver/nvidia/version
module=$(find "/lib/modules/$kernel/updates" -name 'nvidia-current.ko*' 2>/dev/null || true)
if [ -n "$module" ]; then
  echo "NVRM version: NVIDIA UNIX x86_64 Kernel Module  $(modinfo -F version "$module")  Mon Jan  1 00:00:00 UTC 2026" > $d/driver/nvidia/version
fi
show() { mountpoint -q "$2" || mount --bind "$1" "$2"; }
show $d/osrelease /proc/sys/kernel/osrelease
show $d/driver /proc/driver
show $d/pci /sys/bus/pci/devices
