# There is no second gateway yet.
alone=yes
