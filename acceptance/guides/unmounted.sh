# Nobody uses the volume.
umount /srv/ledger && losetup --detach "$device"
