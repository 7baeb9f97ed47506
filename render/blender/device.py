"""What Cycles computes on: GPUs are enabled through its preferences, and what is really used is told."""

from typing import Any

from render.blender.refusal import Refusal

GPUS = ("OPTIX", "CUDA", "HIP", "ONEAPI", "METAL")
"""Kinds of GPU that Cycles knows, best first."""


def choose(preferences: Any, wanted: str, *, allow_cpu: bool) -> dict[str, Any]:
    """Enable the wanted device, of which all there are; `auto` takes the best kind of GPU, else the CPU.

    `preferences` are those of Cycles (`bpy.context.preferences.addons["cycles"].preferences`). Returns
    `{"device": "CPU" or the kind of GPU, "names": [...]}`. Raises `Refusal` of kind device when the wanted
    GPU is absent, unless the CPU is allowed instead.
    """
    kinds = {"auto": GPUS, "cpu": ()}.get(wanted, (wanted.upper(),))
    for kind in kinds:
        if found := gpus(preferences, kind):
            preferences.compute_device_type = kind
            for device in preferences.devices:
                device.use = device.type == kind
            return {"device": kind, "names": [device.name for device in found]}
    if wanted not in ("auto", "cpu") and not allow_cpu:
        raise Refusal(
            "device",
            f"device: Blender finds no {wanted} device on this machine; check the driver, or pass another "
            "--device or --allow-cpu",
        )
    preferences.compute_device_type = "NONE"
    return {"device": "CPU", "names": []}


def names(preferences: Any) -> list[str]:
    """All GPUs that Cycles could use, such as `OPTIX NVIDIA H100`."""
    return [f"{kind} {device.name}" for kind in GPUS for device in gpus(preferences, kind)]


def gpus(preferences: Any, kind: str) -> list[Any]:
    """GPUs of one kind; none where this Blender was built without it."""
    try:
        devices = preferences.get_devices_for_type(kind)
    except (TypeError, ValueError):
        return []
    return [device for device in devices if device.type == kind]
