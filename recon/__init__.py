"""Sample folders to watertight, textured meshes."""
