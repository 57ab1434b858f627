"""Sphinx configuration. Build with ``tox -e docs``: nitpicky, and a warning is an error."""

import re
from typing import Any

from docutils import nodes
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
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"handoff_dask {version}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 88
autosummary_generate = False  # the reference pages are written by hand; the tables only list what is on them

napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_ivar = True  # as fields of their class: `.. attribute::` would describe dataclass fields twice
napoleon_use_rtype = False
napoleon_preprocess_types = True
# Words that docstrings use for types, and what they stand for.
napoleon_type_aliases = {
    "Client": "distributed.Client",
    "callable": "collections.abc.Callable",
    "hashable": "collections.abc.Hashable",
    "iterable": "collections.abc.Iterable",
    "mapping": "collections.abc.Mapping",
    "sequence": "collections.abc.Sequence",
}

nitpick_ignore = [
    ("py:class", "handoff_dask._model.dag.C"),  # a type variable, which has no entry
]

# Other projects' documentation is not looked up, so that the build needs no network.
ELSEWHERE = re.compile(
    r"(asyncio|collections|concurrent|dask|datetime|decimal|distributed|fractions|graphviz|networkx|numbers"
    r"|numpy|os|pandas|pathlib|types)\."
)

#: Several names of a docstring's section that have one description, and maybe one type.
SEVERAL = re.compile(r"(\w+(?:, \w+)+)( : .*)?")

#: Where a public object is defined → the name under which it is documented.
PUBLIC = {
    f"{value.__module__}.{value.__qualname__}": f"handoff_dask.{name}"
    for name, value in ((name, getattr(handoff_dask, name)) for name in handoff_dask.__all__)
    if hasattr(value, "__qualname__")
}


def resolve_reference(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.Node | None:
    """Lead references from the private home of a public object to its entry.

    What has no entry here stays text: names of other projects, types given in words ("list of ids").
    """
    if node.get("refdomain") != "py":
        return None
    target: str = node["reftarget"]
    if target in PUBLIC:
        domain = env.domains.python_domain
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", PUBLIC[target], node, contnode)
    in_words = node["reftype"] == "class" and (" " in target or target.islower())
    return contnode if in_words or ELSEWHERE.match(target) else None


def split_names(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Give each name of "TypeError, ValueError" in a section of exceptions or attributes a line of its own.

    Napoleon would show one of them alone. Its own handler comes after this one.
    """
    out: list[str] = []
    section = ""
    for i, line in enumerate(lines):
        if i + 1 < len(lines) and set(lines[i + 1].strip()) == {"-"}:
            section = line.strip()
        several = SEVERAL.fullmatch(line)
        if several is None or section not in ("Raises", "Attributes"):
            out.append(line)
            continue
        rest = lines[i + 1 :]
        end = next((n for n, text in enumerate(rest) if text and not text.startswith(" ")), len(rest))
        *others, last = several[1].split(", ")
        kind = several[2] or ""
        for other in others:
            out += [other + kind, *(text for text in rest[:end] if text)]
        out.append(last + kind)
    lines[:] = out


def show_defaults(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write defaults as one would in code: Sphinx cannot read a signature with ``<factory>`` in it."""
    if signature is not None:
        signature = signature.replace("<factory>", "{}").replace("<class 'Exception'>", "Exception")
    return signature, returns


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect what this file adds to Sphinx."""
    app.connect("missing-reference", resolve_reference)
    app.connect("autodoc-process-docstring", split_names, priority=400)
    app.connect("autodoc-process-signature", show_defaults)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
