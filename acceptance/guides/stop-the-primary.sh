# In order, with nothing using its volumes.
! mountpoint -q /srv/ledger || { umount /srv/ledger; losetup --detach "$device"; }
kill -TERM "$primary" && wait "$primary"
