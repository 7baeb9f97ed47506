"""Rules for the whole repository that a reader of one file cannot see."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

import svd3d

ROOT = Path(__file__).parents[1]
PACKAGES = ("svd3d", "render", "recon")
GROUND = ("errors", "console", "config", "runs", "cameras", "images", "sample", "settings")

FORBIDDEN_CALLS = {
    "pickle.load": "pickle runs code from the file; use safetensors, npz or JSON",
    "pickle.loads": "pickle runs code from the file; use safetensors, npz or JSON",
    "yaml.load": "use svd3d.config.read_recipe",
    "yaml.unsafe_load": "use svd3d.config.read_recipe",
    "os.system": "use subprocess with a list",
    "os.popen": "use subprocess with a list",
    "eval": "no text becomes code",
    "exec": "no text becomes code",
    "print": "results through console.result, messages through console.say",
}
FORBIDDEN_ARGUMENTS = {
    ("shell", True): "no shell between us and a program",
    ("allow_pickle", True): "pickle runs code from the file",
    ("weights_only", False): "pickle runs code from the file",
    ("trust_remote_code", True): "code of strangers",
}


def forbidden(source: str) -> list[str]:
    """Calls in a source text that no package code may make, each with its line and the reason."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in FORBIDDEN_CALLS:
                found.append(f"{node.lineno}: {name}: {FORBIDDEN_CALLS[name]}")
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if reason := FORBIDDEN_ARGUMENTS.get((keyword.arg, value)):
                    found.append(f"{node.lineno}: {name}({keyword.arg}={value}): {reason}")
            if name == "torch.load" and "weights_only" not in {keyword.arg for keyword in node.keywords}:
                found.append(f"{node.lineno}: torch.load without weights_only=True")
    return found


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_package_code_makes_no_forbidden_call():
    # render/blender/ runs inside Blender, where printing is how a worker talks to its parent
    found = {
        f"{path.relative_to(ROOT)}:{fault}"
        for path in sources(*PACKAGES)
        for fault in forbidden(path.read_text("utf-8"))
        if not (": print:" in fault and "render/blender" in path.as_posix())
    }
    assert found == set()


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(file)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(text, shell=True)",
        "os.system('ls')",
        "eval('1')",
        "print('hello')",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
    ],
)
def test_a_forbidden_call_is_noticed(line):
    assert len(set(forbidden(f"def f():\n    {line}"))) >= 1


def test_model_eval_and_loader_methods_are_no_forbidden_calls():
    assert (
        forbidden("model.eval()\nself.exec()\nyaml.safe_load(text)\ntorch.load(p, weights_only=True)") == []
    )


def swallowed(source: str) -> list[int]:
    """Lines of handlers that hide Ctrl-C or every error: neither raised again nor passed on."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            kind = ast.unparse(node.type) if node.type else ""
            inside = [inner for line in node.body for inner in ast.walk(line)]
            raised = any(isinstance(inner, ast.Raise) for inner in inside)
            used = node.name and any(isinstance(i, ast.Name) and i.id == node.name for i in inside)
            if kind in ("", "BaseException", "Exception") and not (raised or used):
                found.append(node.lineno)
    return found


def test_no_error_is_swallowed_broadly():
    found = {str(path): swallowed(path.read_text("utf-8")) for path in sources(*PACKAGES)}
    assert {path: lines for path, lines in found.items() if lines} == {}
    assert swallowed("try:\n    f()\nexcept Exception:\n    pass") == [3]
    assert swallowed("try:\n    f()\nexcept BaseException as error:\n    queue.put(error)") == []


def test_skip_conditions_are_called():
    """`skipif(not torch.cuda.is_available, ...)` tests a function, which is true: nothing ever skips."""
    slip = re.compile(r"is_available\s*(?!\()[,)\s]")
    assert slip.search("skipif(not torch.cuda.is_available, reason='')")
    assert not slip.search("skipif(not torch.cuda.is_available(), reason='')")
    others = [path for path in sources("tests", *PACKAGES) if path.name != Path(__file__).name]
    assert [str(path) for path in others if slip.search(path.read_text("utf-8"))] == []


def test_public_names_have_homes():
    assert svd3d.__all__ == sorted(svd3d.__all__)
    for name, home in svd3d._HOMES.items():
        spec = importlib.util.find_spec(home)
        assert spec is not None, f"svd3d.{name} lives in {home}, which does not exist"
        tree = ast.parse(Path(spec.origin).read_text("utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        assert name in defined or home == f"svd3d.{name}", f"{home} defines no {name}"


def test_an_unknown_public_name_is_refused_with_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'Camera'.*public names: Cameras, Orbit"):
        svd3d.Camera  # noqa: B018


def undocumented(source: str) -> list[str]:
    """Public functions, classes and methods without a docstring."""
    found = []
    for node in ast.parse(source).body:
        inner = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else []
        for each in (node, *inner):
            named = isinstance(each, (ast.FunctionDef, ast.ClassDef)) and not each.name.startswith("_")
            if named and not ast.get_docstring(each):
                found.append(each.name)
    return found


@pytest.mark.parametrize("name", GROUND)
def test_the_ground_floor_is_documented(name):
    source = (ROOT / f"svd3d/{name}.py").read_text("utf-8")
    assert ast.get_docstring(ast.parse(source))
    assert undocumented(source) == []


def test_a_missing_docstring_is_noticed():
    assert undocumented("class A:\n    '''A.'''\n    def f(self): ...\n    def _g(self): ...") == ["f"]


def test_no_path_of_somebodys_machine_is_in_the_code():
    machine = re.compile(r"""["'(\s](/home/\w|/Users/\w|/work/\w|/mnt/\w)""")
    texts = [*sources("tests", "scripts", *PACKAGES), *ROOT.glob("*.md"), *(ROOT / "configs").rglob("*.yaml")]
    assert [str(path) for path in texts if machine.search(path.read_text("utf-8"))] == []


def readme_commands() -> list[str]:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("README.md is not written yet")
    blocks = re.findall(r"```(?:bash|sh|shell|console)\n(.*?)```", readme.read_text("utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines if line.strip() and not line.startswith("#")]


def test_the_commands_in_the_readme_parse():
    for line in readme_commands():
        words = shlex.split(line, comments=True)
        for word in words:
            if word.startswith("scripts/"):
                assert (ROOT / word).exists(), f"{line}: {word} does not exist"
