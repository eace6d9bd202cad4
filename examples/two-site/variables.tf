variable "vault_url_of_geneva" {
  description = "Vault of what runs in Geneva, as the gateways see it; best kept in Zurich."
  type        = string
  default     = "file:///srv/zurich/vault-of-geneva"
}

variable "vault_url_of_zurich" {
  description = "Vault of what runs in Zurich, as the gateways see it; best kept in Geneva."
  type        = string
  default     = "file:///srv/geneva/vault-of-zurich"
}

variable "vault_key_file" {
  description = "The file on the gateways that holds the vaults' key: at least 32 random bytes, mode 0600."
  type        = string
  default     = "/etc/lifeboat/vault.key"
}

variable "at_home" {
  description = "Sites whose gateway runs and whose volume is to be made."
  type        = set(string)
  default     = ["geneva", "zurich"]
}

variable "volume_size_gib" {
  description = "Size of each site's volume."
  type        = number
  default     = 1
}
