# By id: `lifeboat vault list` shows it.
terraform import lifeboat_vault.main vlt-019ab3f0c2d17e4a8b5c6d7e8f901234
