# Two sites that protect each other: what runs in one recovers in the other. One vault for each
# direction, kept where the other site reaches it when the first is gone.

locals {
  # Where applications run, and where their vault is kept: never in the same place.
  sites = {
    geneva = { vault_url = var.vault_url_of_geneva, recovers_at = "zurich" }
    zurich = { vault_url = var.vault_url_of_zurich, recovers_at = "geneva" }
  }
}

resource "lifeboat_vault" "of" {
  for_each    = local.sites
  name        = each.key
  storage_url = each.value.vault_url

  encryption {
    key_source = "key_file"
    key_file   = var.vault_key_file
  }
}

# Each vault has both sites and both gateways: the one at home, and the one that takes over.
resource "lifeboat_site" "home" {
  for_each = local.sites
  vault_id = lifeboat_vault.of[each.key].id
  name     = each.key
}

resource "lifeboat_site" "recovery" {
  for_each = local.sites
  vault_id = lifeboat_vault.of[each.key].id
  name     = each.value.recovers_at
}

resource "lifeboat_gateway" "home" {
  for_each = local.sites
  site_id  = lifeboat_site.home[each.key].id
  name     = "gateway-${each.key}"
}

resource "lifeboat_gateway" "recovery" {
  for_each = local.sites
  site_id  = lifeboat_site.recovery[each.key].id
  name     = "gateway-${each.value.recovers_at}"
}

resource "lifeboat_replication_policy" "standard" {
  for_each                = local.sites
  vault_id                = lifeboat_vault.of[each.key].id
  name                    = "standard"
  recovery_point_interval = "5s"

  retention {
    every = "all"
    for   = "1h"
  }
  retention {
    every = "5m"
    for   = "24h"
  }
  retention {
    every = "1h"
    for   = "15d"
  }
}

resource "lifeboat_volume" "files" {
  for_each   = { for name in var.at_home : name => name }
  policy_id  = lifeboat_replication_policy.standard[each.key].id
  gateway_id = lifeboat_gateway.home[each.key].id
  name       = "files-${each.key}"
  size_gib   = var.volume_size_gib
}
