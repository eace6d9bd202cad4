action "lifeboat_change_point" "erp" {
  config {
    group_id = lifeboat_consistency_group.erp.id
    point    = "latest-app-consistent"
  }
}
