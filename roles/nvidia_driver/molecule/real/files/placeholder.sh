#!/bin/sh
# DOUBLE of the second set's sources, to save minutes: a module of one line for this kernel, whose version is that of the set. DKMS
# builds, signs and installs it as any other; the first set of this scenario was built whole from NVIDIA's sources.
set -e
mkdir -p line
printf '#include <linux/module.h>\nMODULE_LICENSE("GPL");\nMODULE_VERSION("%s");\n' "$2" > line/nvidia.c
echo 'obj-m := nvidia.o' > line/Makefile
make -C "/lib/modules/$1/build" M="$PWD/line" modules
cp line/nvidia.ko .
for module in modeset drm uvm peermem; do
  cp line/nvidia.ko "nvidia-$module.ko"
done
