# The server: a disk /dev/vdb that is in use, and a policy. Its devices are its own, so that there can be one of that name.
lifeboat policy create --name gold --interval 2s --retain all:24h
install -d /srv/images /srv/data
truncate -s 64M /srv/images/data.raw && mkfs.ext4 -q /srv/images/data.raw
device=$(losetup --find --show /srv/images/data.raw)
install -d /run/dev && mount -t tmpfs -o mode=0755,dev none /run/dev
cp -a /dev/fuse /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/loop-control /dev/fd /dev/stdin /dev/stdout /dev/stderr /run/dev
for number in {0..255}; do mknod "/run/dev/loop$number" b 7 "$number"; done
mknod /run/dev/vdb b 7 "${device#/dev/loop}"
mount --move /run/dev /dev
mount /dev/vdb /srv/data && echo kept >/srv/data/file
