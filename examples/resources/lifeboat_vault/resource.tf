variable "vault_passphrase" {
  type      = string
  ephemeral = true
}

# A vault in a directory, opened by a passphrase. The passphrase is write-only: it is in neither plan
# nor state. Raise passphrase_version to send it again.
resource "lifeboat_vault" "main" {
  name             = "main"
  storage_url      = "file:///srv/lifeboat-vault"
  soft_delete_days = 30

  encryption {
    key_source         = "passphrase"
    passphrase         = var.vault_passphrase
    passphrase_version = 1
  }
}
