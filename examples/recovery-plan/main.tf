# One machine and a volume that stands for itself, the networks at both sites, and the plan that brings them up at the
# recovery site.

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
  vault_id                = lifeboat_vault.main.id
  name                    = "standard"
  recovery_point_interval = "5s"

  retention {
    every = "all"
    for   = "24h"
  }
}

resource "lifeboat_consistency_group" "shop" {
  vault_id  = lifeboat_vault.main.id
  site_id   = lifeboat_site.onprem.id
  name      = "shop"
  policy_id = lifeboat_replication_policy.standard.id
}

resource "lifeboat_volume" "shop" {
  for_each   = { system = 1, data = 2 }
  group_id   = lifeboat_consistency_group.shop.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "shop-${each.key}"
  size_gib   = each.value
}

resource "lifeboat_volume" "files" {
  policy_id  = lifeboat_replication_policy.standard.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "files"
  size_gib   = 1
}

# The networks of both sites, and where tests run.
resource "lifeboat_network" "onprem" {
  site_id = lifeboat_site.onprem.id
  name    = "servers"
  bridge  = "br-servers"

  subnet {
    name    = "web"
    cidr    = "10.20.0.0/24"
    gateway = "10.20.0.1"
  }
}

resource "lifeboat_network" "recovery" {
  site_id = lifeboat_site.recovery.id
  name    = "servers"
  bridge  = "br-servers"

  subnet {
    name    = "web"
    cidr    = "10.30.0.0/24"
    gateway = "10.30.0.1"
  }
}

resource "lifeboat_network" "isolated" {
  site_id = lifeboat_site.recovery.id
  name    = "isolated"
  bridge  = "br-isolated"

  subnet {
    name = "web"
    cidr = "10.30.0.0/24"
  }
}

# Out, and home again.
resource "lifeboat_network_mapping" "out" {
  source_network_id = lifeboat_network.onprem.id
  target_network_id = lifeboat_network.recovery.id
  test_network_id   = lifeboat_network.isolated.id
}

resource "lifeboat_network_mapping" "home" {
  source_network_id = lifeboat_network.recovery.id
  target_network_id = lifeboat_network.onprem.id
}

resource "lifeboat_machine" "shop" {
  site_id    = lifeboat_site.onprem.id
  name       = "shop"
  group_id   = lifeboat_consistency_group.shop.id
  cpus       = 4
  memory_mib = 8192

  # It boots from the first.
  disk {
    volume_id = lifeboat_volume.shop["system"].id
  }
  disk {
    volume_id = lifeboat_volume.shop["data"].id
  }

  network_interface {
    network_id   = lifeboat_network.onprem.id
    address      = "10.20.0.11"
    test_address = "10.30.0.11"
  }
}

resource "lifeboat_recovery_plan" "shop" {
  vault_id       = lifeboat_vault.main.id
  name           = "shop"
  source_site_id = lifeboat_site.onprem.id
  target_site_id = lifeboat_site.recovery.id

  shutdown {
    timeout = "10m"
  }

  # The files come up first; the shop reads them.
  boot_group {
    name       = "files"
    volume_ids = [lifeboat_volume.files.id]
  }

  boot_group {
    name        = "shop"
    machine_ids = [lifeboat_machine.shop.id]

    pre_action {
      name        = "stop orders"
      type        = "manual"
      instruction = "Switch the shop's front page to the notice of maintenance, then go on."
      kinds       = ["planned", "unplanned"]
    }

    post_action {
      name    = "check the shop"
      type    = "script"
      script  = "check-shop"
      timeout = "2m"
    }
    post_action {
      name       = "tell the monitoring"
      type       = "http"
      url        = "https://monitoring.example/hooks/shop-moved"
      directions = ["failover", "failback"]
    }
  }

  # A plan doesn't refer to what its networks become, and needs it.
  depends_on = [lifeboat_network_mapping.out]
}
