data "lifeboat_site" "onprem" {
  name = "onprem"
}
