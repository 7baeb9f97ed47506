"""A wrong shape IS refused: proves that the jaxtyping hook is on for all three packages."""

import importlib
import importlib.util
import inspect
import re
import sys

import jaxtyping
import numpy as np
import pytest

from svd3d import cameras, images

REFUSED = (jaxtyping.TypeCheckError,)


def test_a_wrong_shape_is_refused_in_cameras():
    orbit = cameras.Orbit.static()
    with pytest.raises(REFUSED, match=r"n 3"):
        orbit.fitted(np.zeros((5, 2)))


def test_a_wrong_dtype_is_refused_in_images():
    with pytest.raises(REFUSED, match="UInt8"):
        images.composite(np.zeros((4, 4, 4)))


def test_a_wrong_shape_is_refused_in_a_dataclass():
    with pytest.raises(REFUSED, match="intrinsics"):
        cameras.Cameras(np.eye(4)[None], np.tile(np.eye(3), (2, 1, 1)), 4, 4)


def test_a_whole_number_is_welcome_where_a_number_is_expected():
    assert cameras.Orbit.static(elevation_deg=10, distance=2).elevations_deg[0] == 10


@pytest.mark.parametrize("package", ["svd3d", "render", "recon"])
def test_the_hook_covers_every_module_of(package):
    spec = importlib.util.find_spec(f"{package}.config")
    if spec is None:
        pytest.skip(f"{package}.config is not written yet")
    assert "jaxtyping" in type(spec.loader).__module__
    module = importlib.import_module(f"{package}.config")
    checked = [
        f for _, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__
    ]
    assert all(hasattr(function, "__wrapped__") for function in checked)


@pytest.mark.parametrize("package", ["svd3d", "render", "recon"])
def test_a_module_with_a_wrong_shape_in_it_is_refused(package, tmp_path, monkeypatch):
    """The file joins the package for this test only, so that no function of ours has to stay as it is."""
    name = f"{package}.only_for_a_test"
    (tmp_path / "only_for_a_test.py").write_text(
        "import numpy as np\nfrom jaxtyping import Float\n\n"
        "def double(x: Float[np.ndarray, 'v 3']) -> Float[np.ndarray, 'v 3']:\n    return 2 * x\n"
    )
    home = importlib.import_module(package)
    monkeypatch.setattr(home, "__path__", [*home.__path__, str(tmp_path)])
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    assert module.double(np.ones((2, 3))).sum() == 12
    with pytest.raises(REFUSED, match=re.escape("v 3")):
        module.double(np.ones((2, 4)))
