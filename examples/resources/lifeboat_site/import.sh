# By id: `lifeboat site list` shows it.
terraform import lifeboat_site.onprem site-019ab3f0c2d17e4a8b5c6d7e8f901235
