data "lifeboat_feasibility" "standard" {
  policy_id              = lifeboat_replication_policy.gold.id
  churn_bytes_per_second = 10000000
  mbps                   = 100
  compression_ratio      = 2
  size_gib               = 500
}

# Refuses in the plan what can't work.
output "expected_rpo_seconds" {
  value = data.lifeboat_feasibility.standard.expected_rpo_seconds

  precondition {
    condition     = data.lifeboat_feasibility.standard.feasible
    error_message = join(" ", data.lifeboat_feasibility.standard.reasons)
  }
}
