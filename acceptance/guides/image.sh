# A disk image in use, and the group that it is to be in.
install -d /srv/images /srv/data
truncate -s 64M /srv/images/data.raw && mkfs.ext4 -q /srv/images/data.raw
mount "$(losetup --find --show /srv/images/data.raw)" /srv/data && echo kept >/srv/data/file
lifeboat group create --name shop --site onprem --policy standard
