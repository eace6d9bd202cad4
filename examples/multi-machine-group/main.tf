# Three machines of one application. Their disks are in one consistency group, so that all of them recover to the same
# instant; the plan brings them up one after the other.

locals {
  # In the order in which they come up.
  tiers = ["db", "app", "web"]

  machines = {
    db  = { size_gib = 2, cpus = 4, memory_mib = 16384, address = "10.20.0.11" }
    app = { size_gib = 1, cpus = 4, memory_mib = 8192, address = "10.20.0.21" }
    web = { size_gib = 1, cpus = 2, memory_mib = 4096, address = "10.20.0.31" }
  }
}

resource "lifeboat_vault" "main" {
  name        = "main"
  storage_url = var.vault_url

  encryption {
    key_source = "key_file"
    key_file   = var.vault_key_file
  }
}

resource "lifeboat_site" "onprem" {
  vault_id = lifeboat_vault.main.id
  name     = "onprem"
}

resource "lifeboat_site" "recovery" {
  vault_id = lifeboat_vault.main.id
  name     = "recovery"
}

resource "lifeboat_gateway" "primary" {
  site_id = lifeboat_site.onprem.id
  name    = "primary"
}

resource "lifeboat_gateway" "standby" {
  site_id = lifeboat_site.recovery.id
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

resource "lifeboat_consistency_group" "erp" {
  vault_id  = lifeboat_vault.main.id
  site_id   = lifeboat_site.onprem.id
  name      = "erp"
  policy_id = lifeboat_replication_policy.standard.id
}

resource "lifeboat_volume" "system" {
  for_each   = local.machines
  group_id   = lifeboat_consistency_group.erp.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "erp-${each.key}"
  size_gib   = each.value.size_gib
}

resource "lifeboat_network" "onprem" {
  site_id = lifeboat_site.onprem.id
  name    = "servers"

  subnet {
    name = "erp"
    cidr = "10.20.0.0/24"
  }
}

resource "lifeboat_network" "recovery" {
  site_id = lifeboat_site.recovery.id
  name    = "servers"

  subnet {
    name = "erp"
    cidr = "10.30.0.0/24"
  }
}

resource "lifeboat_network_mapping" "out" {
  source_network_id = lifeboat_network.onprem.id
  target_network_id = lifeboat_network.recovery.id
}

resource "lifeboat_machine" "erp" {
  for_each   = local.machines
  site_id    = lifeboat_site.onprem.id
  name       = "erp-${each.key}"
  group_id   = lifeboat_consistency_group.erp.id
  cpus       = each.value.cpus
  memory_mib = each.value.memory_mib

  disk {
    volume_id = lifeboat_volume.system[each.key].id
  }

  network_interface {
    network_id = lifeboat_network.onprem.id
    address    = each.value.address
  }

  # On different hosts, where the recovery site has several.
  target {
    anti_affinity_group = "erp"
  }
}

resource "lifeboat_recovery_plan" "erp" {
  vault_id       = lifeboat_vault.main.id
  name           = "erp"
  source_site_id = lifeboat_site.onprem.id
  target_site_id = lifeboat_site.recovery.id

  dynamic "boot_group" {
    for_each = local.tiers
    content {
      name        = boot_group.value
      machine_ids = [lifeboat_machine.erp[boot_group.value].id]
    }
  }

  depends_on = [lifeboat_network_mapping.out]
}
