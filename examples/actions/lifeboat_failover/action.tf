action "lifeboat_failover" "erp" {
  config {
    group_id = lifeboat_consistency_group.erp.id
    kind     = "planned"
  }
}
