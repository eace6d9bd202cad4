# The primary is started again with the channels that the reader wrote down.
kill -TERM "$primary" && wait "$primary"
lifeboat serve --site onprem --name primary --state "$state" --mount "$mount" --listen-management 127.0.0.1:8443 \
  --notices /etc/lifeboat/notices.toml & primary=$!
settle
