# The first gateway listens for agents, at the names and ports that the guide has.
ip address add 10.9.0.1/32 dev lo && ip address add 10.9.0.2/32 dev lo
printf '10.9.0.1 gateway-a\n10.9.0.2 gateway-b\n' >>/etc/hosts
management=10.9.0.1:443 data=10.9.0.1:9443
