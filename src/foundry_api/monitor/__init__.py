"""The parts of `HealthMonitor`, which `foundry_api.monitor.monitor` puts together."""
