action "lifeboat_reprotect" "shop" {
  config {
    plan_id = lifeboat_recovery_plan.shop.id
  }
}
