resource "lifeboat_site" "onprem" {
  vault_id    = lifeboat_vault.main.id
  name        = "onprem"
  description = "The machine room in the cellar."
}

resource "lifeboat_site" "recovery" {
  vault_id    = lifeboat_vault.main.id
  name        = "recovery"
  description = "Where it runs when the primary site is lost."
}
