resource "lifeboat_network_mapping" "out" {
  source_network_id = lifeboat_network.onprem.id
  target_network_id = lifeboat_network.recovery.id
  test_network_id   = lifeboat_network.isolated.id

  # `web` becomes the subnet of the same name.
  subnet {
    source = "db"
    target = "data"
  }
}

# The way back.
resource "lifeboat_network_mapping" "home" {
  source_network_id = lifeboat_network.recovery.id
  target_network_id = lifeboat_network.onprem.id

  subnet {
    source = "data"
    target = "db"
  }
}
