# Outputs that a failover does not change: the plan after a failover is empty. What does change (the
# points, the lag, the side that is active) is read through the data sources, as in `terraform
# console`: data.lifeboat_recovery_points.ledger.

output "vault_uuid" {
  description = "The vault's own identity, as it stands in storage."
  value       = lifeboat_vault.main.vault_uuid
}

output "group_id" {
  description = "The consistency group, for `lifeboat failover --group`."
  value       = lifeboat_consistency_group.ledger.id
}

output "volume_id" {
  description = "The protected volume."
  value       = lifeboat_volume.db.id
}
