# The site is lost, the group is at the recovery site, and the primary's gateway is back.
kill -9 "$primary"
umount --lazy /srv/ledger && losetup --detach "$device"
lifeboat failover unplanned --group ledger --point latest --state /var/lib/lifeboat-standby
lifeboat serve --site onprem --name primary --state "$state" --mount "$mount" \
  --listen-management 127.0.0.1:8443 --reconcile-interval 500ms & primary=$!
