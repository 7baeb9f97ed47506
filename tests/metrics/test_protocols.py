"""Protocols name everything that changes a number, and their digest says when two numbers compare."""

import dataclasses
import typing

import pytest
import yaml

from svd3d.errors import ConfigError
from svd3d.metrics import catalog, protocols
from svd3d.metrics.protocols import Protocol

ALL = [protocols.get(name) for name in protocols.names()]
each_protocol = pytest.mark.parametrize("protocol", ALL, ids=lambda protocol: protocol.name)


def test_a_misspelt_protocol_is_answered_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"there is no 'svd-mw'. Did you mean 'svd-mv'?"):
        protocols.get("svd-mw")
    with pytest.raises(ConfigError, match="no such recipe"):
        protocols.get("nowhere/mine.yaml")


@each_protocol
def test_every_field_changes_the_digest(protocol):
    others = {"background": (0.0, 0.0, 0.0), "elevation_deg": (1.0, 2.0), "views": (0, 1), "num_views": 90,
              "kind": {"views": "meshes", "meshes": "views"}[protocol.kind]}  # fmt: skip
    changes = {int: lambda v: v + 1, float: lambda v: v * 2, bool: lambda v: not v, str: lambda v: v + "x"}
    for field, hint in typing.get_type_hints(Protocol).items():
        value = getattr(protocol, field)
        if field in others:
            changed = others[field]
        elif typing.get_origin(hint) is typing.Literal:
            changed = next(choice for choice in typing.get_args(hint) if choice != value)
        elif isinstance(value, tuple):
            changed = value[1:]
        else:
            changed = 5 if value is None else changes[type(value)](value)
        other = dataclasses.replace(protocol)
        object.__setattr__(other, field, changed)  # past the check that fields fit together
        assert other.digest != protocol.digest, field


@each_protocol
def test_each_is_one_file_of_its_name_and_says_nothing_about_the_other_kind(protocol):
    content = yaml.safe_load((protocols.FOLDER / f"{protocol.name}.yaml").read_text())
    assert content["name"] == protocol.name
    foreign = protocols.VIEWS_ONLY if protocol.kind == "meshes" else protocols.MESHES_ONLY
    assert not foreign & set(content)
    assert not foreign & set(protocol.plain())


def test_the_multi_view_protocol_is_that_of_the_papers():
    protocol = protocols.get("svd-mv")
    assert (protocol.num_views, protocol.orbit, protocol.exclude_condition_view) == (21, "static", True)
    assert protocol.background == (1, 1, 1)
    with_input = protocols.get("svd-mv-with-input")
    assert not with_input.exclude_condition_view
    assert with_input.digest != protocol.digest
    assert (protocols.get("sv3d-dynamic").orbit, protocols.get("sv3d-static").size) == ("dynamic", 576)


def test_the_definition_in_a_report_is_that_of_the_protocol():
    syncdreamer, eschernet = protocols.get("syncdreamer"), protocols.get("eschernet")
    assert "data range of each view" in syncdreamer.definition("ssim")
    assert "uniform window of 7 px" in eschernet.definition("ssim")
    assert "the vertices" in protocols.get("mesh-eschernet").definition("chamfer")
    assert "parity" in protocols.get("mesh-syncdreamer").definition("iou")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"soft_edge": "kept"}, "unknown key 'soft_edge' in Protocol. Did you mean 'soft_edges'?"),
        ({"orbit": "spiral"}, "orbit must be one of any, static, dynamic; got 'spiral'"),
        ({"views": [10, 25]}, r"views must lie between 0 and num_views - 1 = 24; got \(10, 25\)"),
        ({"num_views": 0, "views": None}, "num_views must be at least 1; got 0"),
        ({"metrics": ["psnr", "chamfer"]}, "chamfer compares meshes"),
    ],
)
def test_a_protocol_of_ones_own_is_a_file_that_is_checked(tmp_path, change, message):
    content = yaml.safe_load((protocols.FOLDER / "eschernet.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**content, "name": "mine", "size": 128}))
    assert protocols.get(str(path)).size == 128
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump({**content, **change}))
    with pytest.raises(ConfigError, match=message):
        protocols.get(str(wrong))


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


def test_the_command_line_knows_every_metric():
    from svd3d.settings import Metric

    assert {*typing.get_args(Metric)} == {*catalog.METRICS, *catalog.GROUPS} - {"camera-fit"}
