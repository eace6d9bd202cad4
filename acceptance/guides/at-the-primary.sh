# Who types goes to the machine of the gateway primary.
export LIFEBOAT_ENDPOINT=https://127.0.0.1:8443
export LIFEBOAT_TOKEN_FILE=/var/lib/lifeboat-primary/admin.token LIFEBOAT_CA_CERT=/var/lib/lifeboat-primary/ca.pem
