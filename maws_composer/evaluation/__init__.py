"""Evaluations: functions of an encoder and data that give figures."""
