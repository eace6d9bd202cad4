# A machine, the plan that brings it up at the recovery site, and two drills of that plan: one that the next apply runs, one
# that the recovery site runs by itself.

resource "lifeboat_vault" "main" {
  name        = "main"
  storage_url = var.vault_url

  encryption {
    key_source = "key_file"
    key_file   = var.vault_key_file
  }
}

resource "lifeboat_site" "site" {
  for_each = toset(["onprem", "recovery"])
  vault_id = lifeboat_vault.main.id
  name     = each.key
}

resource "lifeboat_gateway" "primary" {
  site_id = lifeboat_site.site["onprem"].id
  name    = "primary"
}

resource "lifeboat_gateway" "standby" {
  site_id = lifeboat_site.site["recovery"].id
  name    = "standby"
}

resource "lifeboat_replication_policy" "standard" {
  vault_id = lifeboat_vault.main.id
  name     = "standard"

  retention {
    every = "all"
    for   = "24h"
  }
}

resource "lifeboat_consistency_group" "shop" {
  vault_id  = lifeboat_vault.main.id
  site_id   = lifeboat_site.site["onprem"].id
  name      = "shop"
  policy_id = lifeboat_replication_policy.standard.id
}

resource "lifeboat_volume" "system" {
  group_id   = lifeboat_consistency_group.shop.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "shop-system"
  size_gib   = var.system_gib
}

# Servers at both sites, and a network at the recovery site that only tests join.
resource "lifeboat_network" "servers" {
  for_each = { onprem = "10.20.0", recovery = "10.30.0" }
  site_id  = lifeboat_site.site[each.key].id
  name     = "servers"

  subnet {
    name    = "web"
    cidr    = "${each.value}.0/24"
    gateway = "${each.value}.1"
  }
}

resource "lifeboat_network" "tests" {
  site_id = lifeboat_site.site["recovery"].id
  name    = "tests"

  subnet {
    name    = "web"
    cidr    = "10.40.0.0/24"
    gateway = "10.40.0.1"
  }
}

resource "lifeboat_network_mapping" "out" {
  source_network_id = lifeboat_network.servers["onprem"].id
  target_network_id = lifeboat_network.servers["recovery"].id
  test_network_id   = lifeboat_network.tests.id
}

resource "lifeboat_machine" "shop" {
  site_id    = lifeboat_site.site["onprem"].id
  name       = "shop"
  group_id   = lifeboat_consistency_group.shop.id
  cpus       = 1
  memory_mib = 256

  disk {
    volume_id = lifeboat_volume.system.id
  }

  network_interface {
    network_id = lifeboat_network.servers["onprem"].id
    address    = "10.20.0.11"
  }
}

resource "lifeboat_recovery_plan" "shop" {
  vault_id       = lifeboat_vault.main.id
  name           = "shop"
  source_site_id = lifeboat_site.site["onprem"].id
  target_site_id = lifeboat_site.site["recovery"].id

  boot_group {
    machine_ids = [lifeboat_machine.shop.id]
  }

  depends_on = [lifeboat_network_mapping.out]
}

# Run by the apply that creates it, and by every apply that finds it changed or expired.
resource "lifeboat_drill" "shop" {
  count     = var.run_drills ? 1 : 0
  plan_id   = lifeboat_recovery_plan.shop.id
  name      = "shop"
  max_rto   = "30m"
  max_rpo   = "10m"
  valid_for = "90d"
  triggers  = { release = var.release }

  assertion {
    type       = "boots"
    machine_id = lifeboat_machine.shop.id
    contains   = var.console_text
    within     = "10m"
  }
  assertion {
    type       = "tcp"
    machine_id = lifeboat_machine.shop.id
    port       = 80
    within     = "10m"
  }
  assertion {
    type       = "http"
    machine_id = lifeboat_machine.shop.id
    path       = var.health_path
    within     = "10m"
  }
  assertion {
    type       = "screen"
    machine_id = lifeboat_machine.shop.id
  }
  dynamic "assertion" {
    for_each = var.canary == null ? [] : [var.canary]
    content {
      type      = "file_hash"
      volume_id = lifeboat_volume.system.id
      partition = assertion.value.partition
      path      = assertion.value.path
      sha256    = assertion.value.sha256
    }
  }
}

# Once a week, without anybody.
resource "lifeboat_drill" "weekly" {
  count   = var.run_drills ? 1 : 0
  plan_id = lifeboat_recovery_plan.shop.id
  name    = "shop-weekly"

  assertion {
    type       = "boots"
    machine_id = lifeboat_machine.shop.id
    contains   = var.console_text
    within     = "10m"
  }

  schedule {
    every    = "6d"
    days     = ["sat"]
    start    = "22:00"
    end      = "04:00"
    timezone = "Europe/Zurich"
  }
}

check "the_shop_recovers" {
  assert {
    condition     = alltrue([for drill in concat(lifeboat_drill.shop, lifeboat_drill.weekly) : coalesce(drill.passed, false)])
    error_message = "The last drill of the shop didn't pass: ${join("; ", flatten([for drill in concat(lifeboat_drill.shop, lifeboat_drill.weekly) : coalesce(drill.failures, [])]))}"
  }
}
