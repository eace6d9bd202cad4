# Who types goes to the machine of the gateway standby.
export LIFEBOAT_ENDPOINT=https://127.0.0.1:9443
export LIFEBOAT_TOKEN_FILE=/var/lib/lifeboat-standby/admin.token LIFEBOAT_CA_CERT=/var/lib/lifeboat-standby/ca.pem
