"""Protocols name everything that changes a number, and their digest says when two numbers compare."""

import dataclasses

import pytest

from svd3d.errors import ConfigError
from svd3d.metrics import catalog, protocols


def test_a_misspelt_protocol_is_answered_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"there is no 'svd-mw'. Did you mean 'svd-mv'?"):
        protocols.get("svd-mw")


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS.values(), ids=lambda protocol: protocol.name)
def test_every_field_changes_the_digest(protocol):
    changes = {int: lambda v: v + 1, float: lambda v: v * 2, bool: lambda v: not v, str: lambda v: v + "x"}
    for field in dataclasses.fields(protocol):
        value = getattr(protocol, field.name)
        if field.name in ("kind", "alignment"):
            changed = {"views": "meshes", "meshes": "views", "bbox": "none", "world": "none"}[value]
        elif field.name == "background":
            changed = (0.0, 0.0, 0.0)
        elif isinstance(value, tuple):
            changed = value[1:]
        else:
            changed = 5 if value is None else changes[type(value)](value)
        assert dataclasses.replace(protocol, **{field.name: changed}).digest != protocol.digest, field.name


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS.values(), ids=lambda protocol: protocol.name)
def test_protocols_hold_metrics_of_their_kind_only(protocol):
    assert {catalog.METRICS[name].kind for name in protocol.metrics} == {protocol.kind}


def test_the_multi_view_protocol_is_that_of_the_papers():
    protocol = protocols.get("svd-mv")
    assert (protocol.num_views, protocol.static_orbit, protocol.exclude_condition_view) == (21, True, True)
    assert protocol.background == (1, 1, 1)
    with_input = protocols.get("svd-mv-with-input")
    assert not with_input.exclude_condition_view
    assert with_input.digest != protocol.digest


def test_metric_groups_are_spelled_out_and_strangers_refused():
    assert catalog.expand(["lpips", "psnr", "psnr"], kind="views", protocol="views") == (
        "lpips-alex",
        "lpips-vgg",
        "psnr",
    )
    with pytest.raises(
        ConfigError, match="chamfer compares meshes, protocol svd-mv compares views; use --protocol mesh"
    ):
        catalog.expand(["chamfer"], kind="views", protocol="svd-mv")
    with pytest.raises(ConfigError, match=r"unknown metric 'psrn'. Did you mean 'psnr'"):
        catalog.expand(["psrn"], kind="views", protocol="views")
