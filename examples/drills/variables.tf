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

variable "run_drills" {
  description = "Whether the drills are declared: once there is something on the disk to boot."
  type        = bool
  default     = true
}

variable "system_gib" {
  description = "Size of the machine's disk, GiB."
  type        = number
  default     = 8
}

variable "console_text" {
  description = "What stands on the machine's console once it is up."
  type        = string
  default     = "login:"
}

variable "health_path" {
  description = "What the machine's web server is asked for."
  type        = string
  default     = "/health"
}

variable "canary" {
  description = "A file on the disk whose content is known: the partition that it is on, its path there, its SHA-256."
  type        = object({ partition = number, path = string, sha256 = string })
  default     = null
}

variable "release" {
  description = "The release of the application: another one is drilled anew."
  type        = string
  default     = "1"
}
