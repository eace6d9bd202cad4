# A drill of a whole plan, which cleans up after itself.
action "lifeboat_failover" "drill" {
  config {
    plan_id = lifeboat_recovery_plan.shop.id
    kind    = "test"
    ttl     = "4h"
  }
}

# A group without machines.
action "lifeboat_failover" "erp" {
  config {
    group_id = lifeboat_consistency_group.erp.id
    kind     = "planned"
  }
}
