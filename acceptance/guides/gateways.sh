# The two gateways of "Get started", and the vault's key. Scripts before this one may say where the primary is (state, mount), and that
# there is no standby yet (alone), what the primary's API and its listener for agents have as addresses (management, data).
management=${management:-127.0.0.1:8443}
state=${state:-/var/lib/lifeboat-primary} mount=${mount:-/mnt/primary}
install -d -m 0700 /etc/lifeboat /srv/lifeboat-vault
install -d "$mount" /mnt/standby /srv/ledger
(umask 077; head -c 32 /dev/urandom > /etc/lifeboat/vault.key)
lifeboat serve --site onprem --name primary --state "$state" --mount "$mount" \
  --listen-management "$management" ${data:+--listen-data "$data"} --reconcile-interval 500ms & primary=$!
if [ -z "${alone:-}" ]; then
  lifeboat serve --site recovery --name standby --state /var/lib/lifeboat-standby --mount /mnt/standby \
    --listen-management 127.0.0.1:9443 --reconcile-interval 500ms & standby=$!
fi
settle
export LIFEBOAT_ENDPOINT=https://$management LIFEBOAT_TOKEN_FILE=$state/admin.token LIFEBOAT_CA_CERT=$state/ca.pem
if [ -z "${alone:-}" ]; then
  LIFEBOAT_ENDPOINT+=,https://127.0.0.1:9443
  LIFEBOAT_TOKEN_FILE+=,/var/lib/lifeboat-standby/admin.token
  LIFEBOAT_CA_CERT+=,/var/lib/lifeboat-standby/ca.pem
fi
