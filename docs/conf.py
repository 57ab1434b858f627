"""Sphinx configuration. ``tox -e docs`` builds in nitpicky mode and turns warnings into errors."""

import hashlib
import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from nbclient import NotebookClient
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.environment import BuildEnvironment

import handoff_dask

project = "handoff_dask"
author = "the handoff_dask developers"
copyright = f"2026, {author}"
version = release = handoff_dask.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_design",
]
exclude_patterns = ["_build"]
html_theme = "furo"
pygments_dark_style = "github-dark"  # the default underlines names, as if they were links
html_title = f"handoff_dask {version}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # execute_notebooks does it

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 88
autosummary_generate = False  # the reference pages are written by hand; the tables only list their entries

napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_ivar = True  # `.. attribute::` would document dataclass fields twice
napoleon_use_rtype = False
napoleon_preprocess_types = True
# Short names for types in docstrings → the types.
napoleon_type_aliases = {
    "Client": "distributed.Client",
    "callable": "collections.abc.Callable",
    "hashable": "collections.abc.Hashable",
    "iterable": "collections.abc.Iterable",
    "mapping": "collections.abc.Mapping",
    "sequence": "collections.abc.Sequence",
}

nitpick_ignore = [
    ("py:class", "handoff_dask._model.dag.C"),  # a type variable, which is not documented
    # Types of fields, which the fields' descriptions spell out.
    ("py:class", "ArgumentInclusion"),
    ("py:class", "Isolation"),
    ("py:class", "FunctionType"),
    ("py:class", "handoff_dask._model.function.FunctionFields"),
]

#: Objects of other projects. Their documentation is not linked, so that the build needs no network.
EXTERNAL = re.compile(
    r"(asyncio|collections|concurrent|dask|datetime|decimal|distributed|fractions|graphviz|matplotlib|networkx|numbers"
    r"|numpy|os|pandas|pathlib|types)\."
)

#: Several names in one entry of a docstring section, such as "TypeError, ValueError", with an optional type.
NAMES = re.compile(r"(\w+(?:, \w+)+)( : .*)?")

#: Full name where a public object is defined → the name under which it is documented.
PUBLIC = {
    f"{value.__module__}.{value.__qualname__}": f"handoff_dask.{name}"
    for name, value in ((name, getattr(handoff_dask, name)) for name in handoff_dask.__all__)
    if hasattr(value, "__qualname__")
}


def resolve_reference(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.Node | None:
    """Resolve a reference to a public object by the private module that defines it.

    Names of other projects, and types described in prose ("list of ids"), stay plain text.
    """
    if node.get("refdomain") != "py":
        return None
    target: str = node["reftarget"]
    if target in PUBLIC:
        domain = env.domains.python_domain
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", PUBLIC[target], node, contnode)
    is_prose = node["reftype"] == "class" and (" " in target or target.islower())
    return contnode if is_prose or EXTERNAL.match(target) else None


def split_names(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Split "TypeError, ValueError" in sections Raises and Attributes into one entry per name.

    Napoleon would keep only one of the names. Its handler runs after this one.
    """
    out: list[str] = []
    section = ""
    for i, line in enumerate(lines):
        if i + 1 < len(lines) and set(lines[i + 1].strip()) == {"-"}:
            section = line.strip()
        match = NAMES.fullmatch(line)
        if match is None or section not in ("Raises", "Attributes"):
            out.append(line)
            continue
        rest = lines[i + 1 :]
        end = next((n for n, text in enumerate(rest) if text and not text.startswith(" ")), len(rest))
        *others, last = match[1].split(", ")
        kind = match[2] or ""
        for other in others:
            out += [other + kind, *(text for text in rest[:end] if text)]
        out.append(last + kind)
    lines[:] = out


def show_defaults(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Replace reprs of defaults by code: Sphinx cannot parse a signature that contains ``<factory>``."""
    if signature is not None:
        signature = signature.replace("<factory>", "{}").replace("<class 'Exception'>", "Exception")
    return signature, returns


def execute_notebooks(app: Sphinx) -> None:
    """Execute the notebooks in ``examples`` into ``docs/notebooks``, unless nothing has changed.

    The repository stores them without outputs, which would go stale and change in every diff. Executed here,
    they show what the documented version prints, and a notebook that fails, fails the build.
    """
    root = Path(app.srcdir).parent
    package = hashlib.sha256()
    for module in sorted((root / "handoff_dask").rglob("*.py")):
        package.update(module.read_bytes())
    for path in sorted((root / "examples").glob("*.ipynb")):
        digest = package.copy()
        digest.update(path.read_bytes())
        target = Path(app.srcdir) / "notebooks" / path.name
        if target.exists() and nbformat.read(target, 4).metadata.get("executed_from") == digest.hexdigest():
            continue
        notebook = nbformat.read(path, 4)
        with tempfile.TemporaryDirectory() as folder:
            where = {"metadata": {"path": folder}}
            NotebookClient(notebook, kernel_name="python3", timeout=120, resources=where).execute()
        notebook.metadata["executed_from"] = digest.hexdigest()
        nbformat.write(notebook, target)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the handlers of this file."""
    app.connect("builder-inited", execute_notebooks)
    app.connect("missing-reference", resolve_reference)
    app.connect("autodoc-process-docstring", split_names, priority=400)
    app.connect("autodoc-process-signature", show_defaults)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
