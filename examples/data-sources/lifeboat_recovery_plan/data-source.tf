data "lifeboat_recovery_plan" "erp" {
  name = "erp"
}

check "the_plan_can_be_carried_out" {
  assert {
    condition     = data.lifeboat_recovery_plan.erp.readiness == "ready"
    error_message = join("; ", data.lifeboat_recovery_plan.erp.reasons)
  }
}
