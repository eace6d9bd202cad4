# One protected volume, two sites, one vault. Whatever the primary site loses, the recovery site
# opens the vault and serves the volume again.

resource "lifeboat_vault" "main" {
  name        = "main"
  storage_url = var.vault_url

  encryption {
    key_source = "key_file"
    key_file   = var.vault_key_file
  }
}

resource "lifeboat_site" "onprem" {
  vault_id    = lifeboat_vault.main.id
  name        = "onprem"
  description = "Where the applications run."
}

resource "lifeboat_site" "recovery" {
  vault_id    = lifeboat_vault.main.id
  name        = "recovery"
  description = "Where they run when the primary site is lost."
}

# A gateway process takes up the declaration that bears its own --site and --name.
resource "lifeboat_gateway" "primary" {
  site_id = lifeboat_site.onprem.id
  name    = "primary"
}

resource "lifeboat_gateway" "standby" {
  site_id = lifeboat_site.recovery.id
  name    = "standby"
}

resource "lifeboat_replication_policy" "standard" {
  vault_id                = lifeboat_vault.main.id
  name                    = "standard"
  recovery_point_interval = var.recovery_point_interval
  rpo_threshold           = "1m"

  # Every point for an hour, then one every five minutes for a day, then one an hour.
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

# The volumes of a group share one write order: a recovery point is one cut through all of them.
resource "lifeboat_consistency_group" "ledger" {
  vault_id  = lifeboat_vault.main.id
  site_id   = lifeboat_site.onprem.id
  name      = "ledger"
  policy_id = lifeboat_replication_policy.standard.id
}

resource "lifeboat_volume" "db" {
  group_id   = lifeboat_consistency_group.ledger.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "db"
  size_gib   = var.volume_size_gib
}

data "lifeboat_recovery_points" "ledger" {
  group_id = lifeboat_volume.db.group_id
  limit    = 10
}

data "lifeboat_protection_status" "ledger" {
  group_id = lifeboat_volume.db.group_id
}
