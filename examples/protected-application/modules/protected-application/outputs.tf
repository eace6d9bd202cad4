output "group_id" {
  description = "The consistency group."
  value       = lifeboat_consistency_group.this.id
}

output "paths" {
  description = "The volumes' files in the mount of the gateway that serves them, by name."
  value       = { for name, volume in lifeboat_volume.this : name => volume.path }
}
