data "lifeboat_vault" "shared" {
  name = "main"
}
