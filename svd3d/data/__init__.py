"""What training reads: latent shards of orbits and `clips` on disk (`latents`), and their order (`dataset`).

This module itself is light: it imports no torch.
"""
