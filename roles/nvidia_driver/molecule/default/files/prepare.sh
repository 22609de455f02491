#!/bin/bash
# prepare.sh REPOSITORY: what the roles node and content leave on a node, with the engine of this working copy; and the double of a
# booted kernel (double.sh).
set -euo pipefail
[ -d /srv/scenario ] || { echo "this script is for a node of the lab" >&2; exit 1; }
mkdir -p /etc/appliance /opt/appliance/current /srv/double /var/lib/appliance
python3 -m venv --without-pip /opt/appliance/current/engine
echo /srv/src > "$(echo /opt/appliance/current/engine/lib/python3.*/site-packages)/engine.pth"
cat > /etc/appliance/apt.conf <<'CONF'
Dir::Etc::sourcelist "/etc/appliance/apt.list";
Dir::Etc::sourceparts "-";
CONF
echo "deb [trusted=yes] file:$1 ./" > /etc/appliance/apt.list
APT_CONFIG=/etc/appliance/apt.conf apt-get --quiet update
install -m 0644 /srv/files/double.service /etc/systemd/system/
install -m 0755 /srv/files/double.sh /srv/double/
systemctl enable --now double.service
