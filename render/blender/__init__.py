"""Runs inside Blender: standard library, numpy and bpy only, so that any Blender can run it."""
