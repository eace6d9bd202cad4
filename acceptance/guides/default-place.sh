# Where the package has a gateway.
state=/var/lib/lifeboat mount=/mnt/lifeboat
