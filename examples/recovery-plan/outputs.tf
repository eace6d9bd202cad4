output "plan_id" {
  description = "The recovery plan: `lifeboat plan show` says whether it could be carried out, and what is missing."
  value       = lifeboat_recovery_plan.shop.id
}
