#!/bin/bash
# DOUBLE of NVIDIA's repositories: packages of their names and versions, almost empty, in an apt repository of this node; and of
# a PCI bus with one H100.
set -euo pipefail
mkdir -p /srv/double/{repository,lists,pci/0000:65:00.0} && cd /srv/double
printf '0x030200\n' > pci/0000:65:00.0/class
printf '0x10de\n' > pci/0000:65:00.0/vendor
printf '0x2330\n' > pci/0000:65:00.0/device
mount --bind /srv/double/pci /sys/bus/pci/devices
package() { # NAME VERSION [PROGRAM]
  mkdir -p "make/$1-$2/DEBIAN" "make/$1-$2/usr/bin"
  printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: double\n' "$1" "$2" > "make/$1-$2/DEBIAN/control"
  if [ -n "${3:-}" ]; then
    printf '#!/bin/sh\necho "Cuda compilation tools, release 13.0"\n' > "make/$1-$2/usr/bin/$3"
    chmod 0755 "make/$1-$2/usr/bin/$3"
  fi
  dpkg-deb --build --root-owner-group "make/$1-$2" "repository/$1_$2_all.deb" > /dev/null
}
package cuda-compat-13-0 580.178.04-1
package cuda-compat-13-2 595.84-1
package cuda-toolkit-13-0 13.0.2-1 nvcc
package cuda-double 1
package cuda-double 2
cd repository
for deb in *.deb; do
  dpkg-deb --field "$deb"
  printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" "$(sha256sum "$deb" | cut -d' ' -f1)"
done > Packages
cat > /srv/double/sources.list <<X
deb [trusted=yes] file:/srv/double/repository ./
X
cat > /srv/double/apt.conf <<X
Dir::Etc::sourcelist "/srv/double/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "/srv/double/lists";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
X
APT_CONFIG=/srv/double/apt.conf apt-get -q update > /dev/null
