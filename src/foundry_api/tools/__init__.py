"""Tools: functions that a model may call, their schemas, and the execution of calls."""
