variable "vault_url" {
  description = "Where the vault is kept, as the gateways see it."
  type        = string
  default     = "file:///srv/lifeboat-vault"
}

variable "vault_key_file" {
  description = "The file on the gateways that holds the vault's key: at least 32 random bytes, mode 0600. Keep a copy elsewhere: recovery needs the vault and this key, and nothing else."
  type        = string
  default     = "/etc/lifeboat/vault.key"
}

variable "volume_size_gib" {
  description = "Size of the protected volume. It can grow in place, never shrink."
  type        = number
  default     = 1
}

variable "recovery_point_interval" {
  description = "How often a recovery point is taken while there are writes."
  type        = string
  default     = "5s"
}
