action "lifeboat_resync" "erp" {
  config {
    group_id = lifeboat_consistency_group.erp.id
    compare  = true
  }
}
