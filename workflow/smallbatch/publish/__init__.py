"""Sharing of results: the report, the published runs, the research object."""
