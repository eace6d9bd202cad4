# As Debian's package of PostgreSQL has it.
install -d /var/lib/postgresql
