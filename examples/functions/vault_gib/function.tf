# What 500 GiB of volumes take in the vault under this retention.
output "gib" {
  value = provider::lifeboat::vault_gib(500, 1000000, 2, [
    { every = "all", for = "24h" },
    { every = "1h", for = "15d" },
  ])
}
