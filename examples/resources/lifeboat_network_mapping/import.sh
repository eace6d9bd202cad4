# By id: `lifeboat network-mapping list` shows it.
terraform import lifeboat_network_mapping.out nmap-019ab3f0c2d17e4a8b5c6d7e8f90123b
