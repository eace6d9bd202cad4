variable "container" {
  description = "The container. It must exist."
  type        = string
}

variable "prefix" {
  description = "Where in the container. Several vaults can share one."
  type        = string
  default     = "lifeboat"
}

variable "endpoint" {
  description = "Address of the service, where it isn't Azure's own: https://host[:port]/account."
  type        = string
  default     = null
}

variable "account_name" {
  description = "The storage account."
  type        = string
  ephemeral   = true
}

variable "account_key" {
  description = "One of its keys."
  type        = string
  sensitive   = true
  ephemeral   = true
}

variable "passphrase" {
  description = "Opens the vault; at least 8 characters. Keep a copy elsewhere: recovery needs the container and this, and nothing else."
  type        = string
  sensitive   = true
  ephemeral   = true
}

variable "volume_size_gib" {
  description = "Size of the protected volume."
  type        = number
  default     = 1
}
