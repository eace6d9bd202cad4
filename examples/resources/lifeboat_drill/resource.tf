resource "lifeboat_drill" "erp" {
  plan_id   = lifeboat_recovery_plan.erp.id
  name      = "erp-weekly"
  max_rto   = "30m"
  max_rpo   = "1m"
  valid_for = "30d"

  assertion {
    type       = "boots"
    machine_id = lifeboat_machine.erp.id
    within     = "10m"
  }
  assertion {
    type       = "http"
    machine_id = lifeboat_machine.erp.id
    port       = 8080
    path       = "/health"
    contains   = "database: ok"
    within     = "10m"
  }
  assertion {
    type      = "file_hash"
    volume_id = lifeboat_volume.files.id
    path      = "/share/canary.txt"
    sha256    = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
  }

  # On the nights from Saturday to Sunday, by itself.
  schedule {
    every    = "6d"
    days     = ["sat"]
    start    = "22:00"
    end      = "04:00"
    timezone = "Europe/Zurich"
  }
}

# A drill that doesn't pass fails no apply: this says so in every plan until one does.
check "erp_recovers" {
  assert {
    condition     = coalesce(lifeboat_drill.erp.passed, false)
    error_message = "The last drill of ERP didn't pass: ${join("; ", coalesce(lifeboat_drill.erp.failures, []))}"
  }
}
