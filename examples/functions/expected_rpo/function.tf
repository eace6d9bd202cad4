# Seconds that a disaster loses at worst, with 100 Mbit/s and a recovery point every 5 seconds.
output "rpo_seconds" {
  value = provider::lifeboat::expected_rpo(10000000, 2, 100, "5s")
}
