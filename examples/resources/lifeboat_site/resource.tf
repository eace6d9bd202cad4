resource "lifeboat_site" "onprem" {
  vault_id    = lifeboat_vault.main.id
  name        = "onprem"
  description = "The machine room in the cellar."
}
