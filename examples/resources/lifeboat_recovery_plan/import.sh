# By id: `lifeboat plan list` shows it.
terraform import lifeboat_recovery_plan.erp plan-019ab3f0c2d17e4a8b5c6d7e8f90123d
