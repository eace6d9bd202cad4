# Something on the volume, and two points of it in the vault.
device=$(losetup --direct-io=on --find --show "$mount/volumes/db.img")
mkfs.ext4 -q "$device" && mount "$device" /srv/ledger
echo 'order 1' >/srv/ledger/orders && sync -f /srv/ledger
lifeboat point take --group ledger --label 'one order'
echo 'order 2' >>/srv/ledger/orders && sync -f /srv/ledger
lifeboat point take --group ledger --label 'two orders'
