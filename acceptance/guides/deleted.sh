# A plan, and a group with its volume, that were deleted by mistake.
lifeboat plan create --name shop --source onprem --target recovery --boot volume:db
lifeboat plan delete shop
umount /srv/ledger && losetup --detach "$device"
lifeboat volume delete db
lifeboat group delete ledger
