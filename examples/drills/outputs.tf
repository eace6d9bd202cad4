# Ids, and nothing that a run of the schedule changes: a plan stays empty then. `terraform state show` and
# `lifeboat drill evidence` show the rest.
output "drill_ids" {
  description = "The drills: `lifeboat drill show` says how the last runs came out."
  value       = concat(lifeboat_drill.shop[*].id, lifeboat_drill.weekly[*].id)
}
