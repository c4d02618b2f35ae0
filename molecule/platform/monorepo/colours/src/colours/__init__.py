"""Colours of the map's pins."""

BY_CITY = {"Lyon": "blue", "Lille": "green"}
