# By id: `lifeboat volume list` shows it.
terraform import lifeboat_volume.erp_data vol-019ab3f0c2d17e4a8b5c6d7e8f901239
