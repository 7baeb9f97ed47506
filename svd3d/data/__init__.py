"""What training reads: latent shards on disk (`latents`) and the order they are seen in (`dataset`).

This module itself is light: it imports no torch.
"""
