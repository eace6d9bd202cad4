# By id: `lifeboat network list` shows it.
terraform import lifeboat_network.onprem net-019ab3f0c2d17e4a8b5c6d7e8f90123a
