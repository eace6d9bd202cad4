# The primary's machine loses its power: its gateway, what was mounted, its loop device.
kill -9 "$primary"
umount --lazy /srv/ledger && losetup --detach "$device"
