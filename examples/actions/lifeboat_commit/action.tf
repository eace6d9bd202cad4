action "lifeboat_commit" "erp" {
  config {
    group_id = lifeboat_consistency_group.erp.id
  }
}
