# What the line to the vault must carry: 10 MB/s, halved by compression, at most five minutes lost.
output "mbps" {
  value = provider::lifeboat::required_bandwidth_mbps(10000000, 2, "5m")
}

# With a recovery point every 30 seconds.
output "mbps_30s" {
  value = provider::lifeboat::required_bandwidth_mbps(10000000, 2, "40s", "30s")
}
