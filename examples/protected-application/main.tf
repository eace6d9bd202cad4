# The module below declares everything that one application needs. Here it is used twice: a database
# that must lose next to nothing, and files that may lose a minute.

resource "lifeboat_vault" "main" {
  name        = "main"
  storage_url = var.vault_url

  encryption {
    key_source = "key_file"
    key_file   = var.vault_key_file
  }
}

resource "lifeboat_site" "onprem" {
  vault_id = lifeboat_vault.main.id
  name     = "onprem"
}

resource "lifeboat_gateway" "primary" {
  site_id = lifeboat_site.onprem.id
  name    = "primary"
}

module "erp" {
  source = "./modules/protected-application"

  name       = "erp"
  vault_id   = lifeboat_vault.main.id
  site_id    = lifeboat_site.onprem.id
  gateway_id = lifeboat_gateway.primary.id
  rpo        = "5s"
  volumes = {
    data = { size_gib = 1 }
    log  = { size_gib = 0.25 }
  }
}

module "share" {
  source = "./modules/protected-application"

  name       = "share"
  vault_id   = lifeboat_vault.main.id
  site_id    = lifeboat_site.onprem.id
  gateway_id = lifeboat_gateway.primary.id
  rpo        = "1m"
  keep_days  = 30
  volumes = {
    files = { size_gib = 1 }
  }
}

output "paths" {
  description = "The volumes' files, by application and volume."
  value       = { erp = module.erp.paths, share = module.share.paths }
}
