# Two volumes of one group: data and log of a database recover to the same instant.
resource "lifeboat_volume" "erp_data" {
  group_id   = lifeboat_consistency_group.erp.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "erp-data"
  size_gib   = 200
}

resource "lifeboat_volume" "erp_log" {
  group_id   = lifeboat_consistency_group.erp.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "erp-log"
  size_gib   = 20
}

# A volume on its own: its policy instead of a group.
resource "lifeboat_volume" "files" {
  policy_id  = lifeboat_replication_policy.gold.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "files"
  size_gib   = 500
}
