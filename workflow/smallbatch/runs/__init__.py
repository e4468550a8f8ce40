"""Runs on disk: records, bundles, packs, heartbeats, and how far a study is."""
