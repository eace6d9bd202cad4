# A volume, and a disk whose content is to be put on it.
lifeboat volume create --name data --gateway primary --group ledger --size 64MiB
truncate -s 64M old-disk.img && mkfs.ext4 -q old-disk.img
