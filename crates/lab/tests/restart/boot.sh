#!/bin/sh
# Boots systemd as process 1 of a container of its own, in the network namespace that this is started in:
#
#   boot.sh DIR HOST CGROUP
#
#   DIR/etc     becomes /etc/rudel        DIR/units  all units that there are
#   DIR/run     becomes /run/rudel        DIR/sbin   has rudeld and rudel
#
# The container sees the machine's files, and what it writes goes to memory. It has process numbers, a host name, mounts, a
# BPF file system and control groups (below CGROUP, which is a version 2 one) of its own; of the settings of the kernel it
# can change those of its network. Nothing of it outlives this process.
set -eu
dir=$1 host=$2 cgroup=$3
if [ "${4-}" != inside ]; then
    echo $$ >"$cgroup/cgroup.procs"
    exec unshare --mount --propagation private --pid --fork --kill-child --ipc --uts --cgroup -- "$0" "$@" inside
fi
new=$dir/root
mkdir -p "$dir/layers" "$new"
mount -t tmpfs rudel-lab "$dir/layers"
mkdir "$dir/layers/upper" "$dir/layers/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/layers/upper,workdir=$dir/layers/work" "$new"

mount -t proc proc "$new/proc"
mount --bind "$new/proc/sys" "$new/proc/sys"
mount --bind "$new/proc/sys/net" "$new/proc/sys/net"
mount -o remount,bind,ro "$new/proc/sys"
mount -t sysfs sysfs "$new/sys"
mount -t cgroup2 cgroup2 "$new/sys/fs/cgroup"
mount -t bpf bpf "$new/sys/fs/bpf"

mount -t tmpfs -o mode=755 tmpfs "$new/dev"
for device in null zero full random urandom tty; do
    : >"$new/dev/$device"
    mount --bind "/dev/$device" "$new/dev/$device"
done
mkdir "$new/dev/pts" "$new/dev/shm" "$new/dev/mqueue"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$new/dev/pts"
ln -s pts/ptmx "$new/dev/ptmx"

mount -t tmpfs -o mode=755 tmpfs "$new/run"
mount -t tmpfs tmpfs "$new/tmp"
mkdir "$new/run/rudel" "$new/run/units" "$new/run/generators" "$new/run/machine"
mount --bind "$dir/run" "$new/run/rudel"
mount --bind "$dir/units" "$new/run/units"
mkdir -p "$new/etc/rudel" "$new/usr/local/sbin" "$new/usr/local/bin"
cp -a "$dir/etc/." "$new/etc/rudel/"
install -m 0755 "$dir/sbin/rudeld" "$new/usr/local/sbin/rudeld"
install -m 0755 "$dir/sbin/rudel" "$new/usr/local/bin/rudel"
# As sysusers.d makes it.
grep -q ^rudel: "$new/etc/group" || echo rudel:x:980: >>"$new/etc/group"
echo "$host" >"$new/etc/hostname"
hostname "$host"

cd "$new"
pivot_root . run/machine
umount -l run/machine
# No generators, and only the units that it is given: the machine's own services are none of its business.
exec env -i container=rudel-lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    SYSTEMD_UNIT_PATH=/run/units SYSTEMD_GENERATOR_PATH=/run/generators \
    SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/generators \
    /usr/lib/systemd/systemd --system --unit=basic.target --log-target=journal --show-status=0
