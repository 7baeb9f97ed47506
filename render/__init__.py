"""3-D files to sample folders, by Blender in supervised child processes."""
