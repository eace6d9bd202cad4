resource "lifeboat_network" "onprem" {
  site_id = lifeboat_site.onprem.id
  name    = "servers"
  bridge  = "br-servers"

  subnet {
    name    = "web"
    cidr    = "10.20.0.0/24"
    gateway = "10.20.0.1"
  }
  subnet {
    name    = "db"
    cidr    = "10.20.1.0/24"
    gateway = "10.20.1.1"
  }
}

resource "lifeboat_network" "recovery" {
  site_id = lifeboat_site.recovery.id
  name    = "servers"
  bridge  = "br-servers"

  subnet {
    name    = "web"
    cidr    = "10.30.0.0/24"
    gateway = "10.30.0.1"
  }
  subnet {
    name    = "data"
    cidr    = "10.30.1.0/24"
    gateway = "10.30.1.1"
  }
}

# What tests of a failover see: the same subnets, and no way out.
resource "lifeboat_network" "isolated" {
  site_id = lifeboat_site.recovery.id
  name    = "isolated"
  bridge  = "br-isolated"

  subnet {
    name = "web"
    cidr = "10.30.0.0/24"
  }
  subnet {
    name = "data"
    cidr = "10.30.1.0/24"
  }
}
