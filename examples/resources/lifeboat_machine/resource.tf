resource "lifeboat_machine" "erp" {
  site_id    = lifeboat_site.onprem.id
  name       = "erp"
  group_id   = lifeboat_consistency_group.erp.id
  cpus       = 8
  memory_mib = 32768
  firmware   = "uefi"

  # The machine boots from the first of its disks.
  disk {
    volume_id = lifeboat_volume.erp_data.id
  }
  disk {
    volume_id = lifeboat_volume.erp_log.id
  }

  network_interface {
    network_id   = lifeboat_network.onprem.id
    address      = "10.20.1.11"
    test_address = "10.30.1.11"
  }

  # Smaller at the recovery site.
  target {
    cpus       = 4
    memory_mib = 16384
  }
}
