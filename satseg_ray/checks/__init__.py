"""Checks of a data set before anything is tiled: pairs, facts, rules and the report."""
