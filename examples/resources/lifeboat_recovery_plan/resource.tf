resource "lifeboat_recovery_plan" "erp" {
  vault_id       = lifeboat_vault.main.id
  name           = "erp"
  source_site_id = lifeboat_site.onprem.id
  target_site_id = lifeboat_site.recovery.id

  shutdown {
    timeout = "10m"
  }

  boot_group {
    name        = "databases"
    machine_ids = [lifeboat_machine.erp.id]

    post_action {
      name    = "check the database"
      type    = "script"
      script  = "check-database"
      timeout = "2m"
    }
  }

  boot_group {
    name       = "files"
    volume_ids = [lifeboat_volume.files.id]

    post_action {
      name        = "tell the users"
      type        = "manual"
      instruction = "Call the head of operations, then go on."
      directions  = ["failover"]
      kinds       = ["planned", "unplanned"]
    }
  }

  # A plan doesn't refer to what its networks become, and needs it.
  depends_on = [lifeboat_network_mapping.out]
}
