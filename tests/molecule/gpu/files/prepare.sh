#!/bin/bash
# What is on the GPU node of this lab before the roles come: what the roles node, content and pki leave (the engine of this working copy on
# the libraries of the bundle, apt's configuration, a certificate), and doubles of the hardware and of NVIDIA's tools: two A100 on the bus, not
# divided. The packages of NVIDIA's names are in /srv/scenario/content (tests/rolecontent.py).
set -euo pipefail
[ -d /srv/scenario ] || { echo "this script is for a node of the lab" >&2; exit 1; }
engine=/opt/appliance/current/engine
mkdir -p /etc/appliance /etc/double /srv/papers /srv/double /opt/appliance/current/src
python3 -m venv --without-pip $engine
for wheel in /srv/content/installer/node/{cffi,pycparser,cryptography}-*.whl; do
  python3 -m zipfile -e "$wheel" /opt/appliance/current/src
done
printf '/srv/src\n/opt/appliance/current/src\n' > "$(echo $engine/lib/python3.*/site-packages)/engine.pth"

groupadd --system appliance-tls
install -d -m 0755 /etc/appliance/pki
install -m 0644 /srv/scenario/site/node/{ca.crt,crl.pem,node.crt} /etc/appliance/pki/
install -m 0640 -g appliance-tls /srv/scenario/site/node/node.key /etc/appliance/pki/

cat > /etc/appliance/apt.list <<'END'
deb [signed-by=/srv/content/debs/appliance-archive.asc] file:/srv/content/debs ./
deb [trusted=yes] file:/srv/scenario/content/debs ./
END
cat > /etc/appliance/apt.conf <<'END'
Dir::Etc::sourcelist "/etc/appliance/apt.list";
Dir::Etc::sourceparts "-";
END
export APT_CONFIG=/etc/appliance/apt.conf DEBIAN_FRONTEND=noninteractive
apt-get --quiet update
apt-get --quiet --yes --no-install-recommends install python3-apt

for address in 0000:65:00.0 0000:66:00.0; do
  mkdir -p /srv/double/pci/$address
  echo 0x030200 > /srv/double/pci/$address/class
  echo 0x10de > /srv/double/pci/$address/vendor
  echo 0x20b0 > /srv/double/pci/$address/device
done
mount --bind /srv/double/pci /sys/bus/pci/devices
# What a loaded driver shows of itself. Whether a module can be loaded is not replayed: modprobe fails here, and the tree says it is there.
mkdir -p /srv/double/proc
printf 'Character devices:\n195 nvidia\n236 nvidia-caps\n510 nvidia-uvm\n\nBlock devices:\n' > /srv/double/proc/devices
for gpu in 0 1; do
  mkdir -p /srv/double/proc/driver/nvidia/gpus/0000:6$((5 + gpu)):00.0 /srv/double/proc/driver/nvidia/capabilities/gpu$gpu/mig/gi1
  printf 'Model: \t\t NVIDIA A100\nDevice Minor: \t %s\n' $gpu > /srv/double/proc/driver/nvidia/gpus/0000:6$((5 + gpu)):00.0/information
  printf 'DeviceFileMinor: %s\nDeviceFileMode: 292\nDeviceFileModify: 1\n' $((30 + gpu)) > /srv/double/proc/driver/nvidia/capabilities/gpu$gpu/mig/gi1/access
done
echo 580.95.05 > /etc/double/driver
for gpu in 0 1; do
  echo "GPU $gpu: NVIDIA A100-SXM4-40GB (UUID: GPU-00000000-0000-0000-0000-00000000000$gpu)"
done > /srv/double/listing
# appliance-mig.service cannot write below /etc.
ln -s /srv/double/listing /etc/double/gpus
echo "a paper" > /srv/papers/paper
install -m 0755 /srv/roles/container_runtime/molecule/default/files/nvidia-smi /usr/bin/
install -m 0755 /srv/roles/mig/molecule/default/files/nvidia-mig-parted /usr/bin/
install -m 0644 /srv/roles/mig/molecule/default/files/appliance-vllm@.service /etc/systemd/system/
# NVIDIA's unit that describes devices: counts until the role container_runtime brings its package and masks it.
cat > /lib/systemd/system/nvidia-cdi-refresh.service <<'END'
[Unit]
Description=DOUBLE of the container toolkit's unit: counts
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo refreshed >> /srv/double/cdi'
[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload
systemctl start appliance-vllm@chat.service
