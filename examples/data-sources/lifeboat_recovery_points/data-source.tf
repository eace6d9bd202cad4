# The recovery points that are an hour old at most.
data "lifeboat_recovery_points" "last_hour" {
  group_id = lifeboat_consistency_group.erp.id
  from     = timeadd(plantimestamp(), "-1h")
  limit    = 100
}
