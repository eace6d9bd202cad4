action "lifeboat_failback" "erp" {
  config {
    group_id = lifeboat_consistency_group.erp.id
    mode     = "minimize-downtime"

    timeouts {
      invoke = "2h"
    }
  }
}
