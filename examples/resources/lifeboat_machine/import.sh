# By id: `lifeboat machine list` shows it.
terraform import lifeboat_machine.erp mch-019ab3f0c2d17e4a8b5c6d7e8f90123c
