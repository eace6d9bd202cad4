# A plan that brings the volume up at the recovery site.
lifeboat plan create --name shop --source onprem --target recovery --boot volume:db
