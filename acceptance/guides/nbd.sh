# The gateway is to serve NBD over TCP too.
export LIFEBOAT_LISTEN_NBD=127.0.0.1:10809
