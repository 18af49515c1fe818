"""What the book adds to Sphinx: mathematics as MathML, and launch buttons that lead to files of the repository.

A formula that cannot be converted is a warning, and warnings are errors: the author sees it at once.
"""

from docutils import nodes
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

from companion.press.mathml import to_mathml

LOGGER = logging.getLogger(__name__)


def _math(node: nodes.Node, block: bool) -> str:
    try:
        return to_mathml(node.astext(), block)
    except ValueError as error:
        LOGGER.warning("the formula %r cannot be printed: %s", node.astext(), error, location=node)
        return "<code></code>"


def visit_math(self, node):
    """Write an inline formula."""
    self.body.append(_math(node, block=False))
    raise nodes.SkipNode


def visit_math_block(self, node):
    """Write a displayed formula, with its number, in a box that scrolls by itself on a narrow screen."""
    self.body.append(self.starttag(node, "div", CLASS="math-box", tabindex="0"))
    self.body.append(_math(node, block=True))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def launch_addresses(url: str, slug: str, provider: str) -> str:
    """Return the address of a launch button changed so that it leads to a file which the repository has.

    The theme thinks that the page chapters/<slug>.ipynb lies in the repository; what lies there is the chapter in
    percent format and its executed reference at the smoke profile, and Colab opens .ipynb files only.
    """
    path = f"results/smoke/{slug}/chapter.ipynb" if provider == "Colab" else f"notebooks/{slug}/chapter.py"
    return url.replace(f"chapters/{slug}.ipynb", path)


def change_launch_buttons(app, pagename, templatename, context, doctree):
    """Correct the launch buttons of a chapter's page, and add JupyterHub's if no hub is configured."""
    group = next((b for b in context.get("header_buttons", []) if b.get("label") == "launch-buttons"), None)
    if group is None:
        return
    slug = pagename.rpartition("/")[2]
    for button in group["buttons"]:
        if "url" in button:
            button["url"] = launch_addresses(button["url"], slug, button["text"])
    if not any(button["text"] == "JupyterHub" for button in group["buttons"]):
        explanation = f"{context['pathto']('re-running')}#in-the-cloud"
        hub = {"type": "link", "text": "JupyterHub", "tooltip": "How to open this on a JupyterHub", "url": explanation}
        group["buttons"].append({**hub, "icon": "_static/images/logo_jupyterhub.svg"})


def remove_thebe(app, pagename, templatename, context, doctree):
    """Take sphinx-thebe's scripts off the page: nothing here uses them, and they name another host."""
    scripts = context.get("script_files", [])
    unwanted = [script for script in scripts if "thebe" in f"{script.filename} {script.attributes}".lower()]
    context["script_files"] = [script for script in scripts if script not in unwanted]


def setup(app):
    """Register with Sphinx."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("html-page-context", change_launch_buttons, priority=900)
    app.connect("html-page-context", remove_thebe, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
