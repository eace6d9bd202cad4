resource "lifeboat_replication_policy" "gold" {
  vault_id                = lifeboat_vault.main.id
  name                    = "gold"
  recovery_point_interval = "5s"
  rpo_threshold           = "1m"
  compression             = "auto"

  # From the newest points to the oldest; the order is kept.
  retention {
    every = "all"
    for   = "1h"
  }
  retention {
    every = "1h"
    for   = "15d"
  }
}
