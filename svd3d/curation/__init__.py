"""Raw videos to a curated training set: cuts, motion, text, captions, aesthetics, near-duplicates."""
