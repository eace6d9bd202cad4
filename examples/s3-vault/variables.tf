variable "bucket" {
  description = "The bucket. It must exist."
  type        = string
}

variable "prefix" {
  description = "Where in the bucket. Several vaults can share one."
  type        = string
  default     = "lifeboat"
}

variable "region" {
  description = "The bucket's region."
  type        = string
  default     = "eu-central-1"
}

variable "endpoint" {
  description = "Address of the service, where it isn't Amazon's own: https://host[:port]."
  type        = string
  default     = null
}

variable "access_key_id" {
  description = "May read, write, list and delete below the prefix."
  type        = string
  ephemeral   = true
}

variable "secret_access_key" {
  description = "The secret of that key."
  type        = string
  sensitive   = true
  ephemeral   = true
}

variable "passphrase" {
  description = "Opens the vault; at least 8 characters. Keep a copy elsewhere: recovery needs the bucket and this, and nothing else."
  type        = string
  sensitive   = true
  ephemeral   = true
}

variable "volume_size_gib" {
  description = "Size of the protected volume."
  type        = number
  default     = 1
}
