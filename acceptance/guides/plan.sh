# A plan that brings the volume up at the recovery site, and that the recovery site knows: it reads the catalog every now and then.
lifeboat plan create --name shop --source onprem --target recovery --boot volume:db
for ((try = 0; try < 300; try++)); do
  ! lifeboat plan show shop --state /var/lib/lifeboat-standby --output json 2>/dev/null | grep -q '"readiness": "ready"' || break
  sleep 0.2
done
