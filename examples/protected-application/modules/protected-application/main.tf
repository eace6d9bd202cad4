resource "lifeboat_replication_policy" "this" {
  vault_id                = var.vault_id
  name                    = var.name
  recovery_point_interval = var.rpo

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
    for   = "${var.keep_days}d"
  }
}

resource "lifeboat_consistency_group" "this" {
  vault_id  = var.vault_id
  site_id   = var.site_id
  name      = var.name
  policy_id = lifeboat_replication_policy.this.id
}

resource "lifeboat_volume" "this" {
  for_each   = var.volumes
  group_id   = lifeboat_consistency_group.this.id
  gateway_id = var.gateway_id
  name       = "${var.name}-${each.key}"
  size_gib   = each.value.size_gib
}
