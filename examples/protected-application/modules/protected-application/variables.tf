variable "name" {
  description = "The application: its policy and its consistency group are named so, its volumes begin so."
  type        = string
}

variable "vault_id" {
  description = "The vault that it is shipped to."
  type        = string
}

variable "site_id" {
  description = "The site where it runs."
  type        = string
}

variable "gateway_id" {
  description = "The gateway that serves its volumes there."
  type        = string
}

variable "volumes" {
  description = "Its volumes by name. They share one write order: a recovery point is one cut through all of them."
  type        = map(object({ size_gib = number }))

  validation {
    condition     = length(var.volumes) > 0
    error_message = "An application without volumes has nothing to protect."
  }
}

variable "rpo" {
  description = "What may be lost: recovery points are taken so often."
  type        = string
  default     = "5s"
}

variable "keep_days" {
  description = "How far back one point an hour is kept."
  type        = number
  default     = 15
}
