"""Estimates before anything is trained: the cost of a study, and the resources that its jobs request."""
