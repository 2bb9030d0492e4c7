"""The parts of `HealthMonitor`, which `foundry_api.health_monitor` puts together."""
