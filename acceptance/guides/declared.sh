# What "Get started" declares, by the command line, which is faster: the vault unless it is there, the group ledger with the volume db
# of 1 GiB, and a standby that has the vault open.
lifeboat vault show main >/dev/null 2>&1 || lifeboat vault create file:///srv/lifeboat-vault --name main --key-file /etc/lifeboat/vault.key
lifeboat site create --name onprem
lifeboat site create --name recovery
lifeboat gateway create --name primary --site onprem
lifeboat gateway create --name standby --site recovery
lifeboat policy create --name standard --interval 2s --retain all:24h
lifeboat group create --name ledger --site onprem --policy standard
lifeboat volume create --name db --gateway primary --group ledger --size 1GiB
if [ -z "${alone:-}" ]; then
  lifeboat vault open file:///srv/lifeboat-vault --key-file /etc/lifeboat/vault.key --state /var/lib/lifeboat-standby
  for ((try = 0; try < 300; try++)); do
    ! lifeboat gateway show standby --output json | grep -q '"registered": true' || break
    sleep 0.2
  done
fi
