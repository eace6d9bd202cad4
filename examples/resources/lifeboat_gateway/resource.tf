# The gateway process that was started with `--site onprem --name primary` takes this up.
resource "lifeboat_gateway" "primary" {
  site_id = lifeboat_site.onprem.id
  name    = "primary"
  roles   = ["configuration_server", "process_server", "master_target"]
}
