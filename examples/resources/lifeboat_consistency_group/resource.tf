resource "lifeboat_consistency_group" "erp" {
  vault_id  = lifeboat_vault.main.id
  site_id   = lifeboat_site.onprem.id
  name      = "erp"
  policy_id = lifeboat_replication_policy.gold.id
}
