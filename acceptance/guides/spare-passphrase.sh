# Passphrases that somebody has thought of.
(umask 077; echo 'correct horse battery staple, and a spare' >/root/escrow-passphrase; echo 'another one, much better than that' >/root/new-passphrase)
