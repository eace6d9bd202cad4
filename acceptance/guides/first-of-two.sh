# The first gateway, with the vault and the site of the second one. Its state is elsewhere: the second one is a machine of its own.
install -d -m 0700 /etc/lifeboat /srv/lifeboat-vault
install -d /mnt/first /mnt/lifeboat
(umask 077; head -c 32 /dev/urandom > /etc/lifeboat/vault.key)
ip address add 10.9.0.1/32 dev lo && echo '10.9.0.1 gw-a.example' >>/etc/hosts
lifeboat serve --site onprem --name gw-a --state /var/lib/lifeboat-first --mount /mnt/first \
  --listen-management 10.9.0.1:443 --reconcile-interval 500ms & primary=$!
settle
export LIFEBOAT_ENDPOINT=https://10.9.0.1:443 LIFEBOAT_TOKEN_FILE=/var/lib/lifeboat-first/admin.token LIFEBOAT_CA_CERT=/var/lib/lifeboat-first/ca.pem
lifeboat vault create file:///srv/lifeboat-vault --name main --key-file /etc/lifeboat/vault.key
lifeboat site create --name onprem
lifeboat site create --name recovery
lifeboat gateway create --name gw-a --site onprem
# Where the second one listens, as the first one has its machine's port 443.
export LIFEBOAT_LISTEN_MANAGEMENT=127.0.0.1:443
