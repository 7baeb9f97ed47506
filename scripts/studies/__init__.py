"""What the studies are made of: their worlds of clips, their small models, and what is common to all."""
