# The first process of a guest (guest.py): makes a machine of a kernel, runs /out/start.sh, ends it.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
set -e
mount -t ext4 /dev/ubda /disk
modprobe overlay
mkdir -p /disk/root /disk/work /disk/tmp /disk/srv
chmod 1777 /disk/tmp
mount -t overlay -o lowerdir=/,upperdir=/disk/root,workdir=/disk/work overlay /mnt
cd /mnt
mkdir -p old
for name in disk out; do mount --bind "/$name" "$name"; done
mount -t proc proc proc
mount -t devtmpfs dev dev
mount -t sysfs sys sys
pivot_root . old
cd /
mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=0666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -sfn /proc/self/fd /dev/fd
ln -sfn /proc/self/mounts /etc/mtab
mount -t hostfs -o ro,/ none /host
while read -r path; do
    mkdir -p "$path"
    mount --bind "/host$path" "$path"
    mount -o remount,ro,bind "$path"
done < /out/seen
ip link set lo up
hostname guest
echo '127.0.0.1 localhost guest' > /etc/hosts
rm -f /etc/resolv.conf # no name server is to be waited for
umount -l /old
set +e
echo "guest: up"
sh /out/start.sh
code=$?
sync
echo "guest: ended $code"
echo o > /proc/sysrq-trigger
sleep 10
