"""What stands between a call and a failure."""
