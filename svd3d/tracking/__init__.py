"""Watching a training run: trackers that it reports to, and a page of its curves and pictures."""
