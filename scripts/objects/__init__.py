"""Families of procedural objects: narrow, seeded grammars to train and test on without a download."""
