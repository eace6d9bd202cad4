variable "vault_url" {
  description = "Where the vault is kept, as the gateways see it."
  type        = string
  default     = "file:///srv/lifeboat-vault"
}

variable "vault_key_file" {
  description = "The file on the gateways that holds the vault's key: at least 32 random bytes, mode 0600."
  type        = string
  default     = "/etc/lifeboat/vault.key"
}
