"""For others: the report, the published runs, the research object."""
