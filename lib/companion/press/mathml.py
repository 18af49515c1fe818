"""Formulas as MathML, made while printing: a page needs no script, no fonts and no network to show one.

docutils converts; what it gets wrong for browsers is mended here.
"""

import html
import re
from xml.etree import ElementTree

from docutils.utils.math.latex2mathml import tex2mathml

NAMESPACE = "{http://www.w3.org/1998/Math/MathML}"
ElementTree.register_namespace("", NAMESPACE.strip("{}"))
ALIASES = {r"\dots": r"\ldots", r"\bm": r"\boldsymbol", r"\argmax": r"\arg\max", r"\argmin": r"\arg\min", r"\'e": "é"}
# \frac12 and \frac1m: the converter takes all digits as the numerator and what follows as the denominator
SHORT_FRACTION = re.compile(r"(\\[dt]?frac)(?![A-Za-z])\s*([0-9A-Za-z])(?:\s*([0-9A-Za-z])|(?=\s*[{\\]))")
BRACES = set("⏟⏞")
ACCENTS = set("¯ˉ_‾^ˆ~˜˙¨→⃗´`˘ˇ")
ENTITY = re.compile(r"&(?!amp;|lt;|gt;|quot;|#)\w+;")  # such as &ApplyFunction;, which only HTML knows
ALIGNED = re.compile(r"\\(begin|end)\{(align|gather|split|eqnarray|multline)\*?\}")
# \lVert x \rVert_2: the converter lets the bars stretch to the height of the whole line, which only \left should
FENCED = re.compile(r"<(msub|msup|msubsup)><mo>(?=[‖|⟩⌋⌉])")
BARS = re.compile(r'(?<!<mrow>)<mo()( class="math(?:open|close)"|)>([‖⟨⟩⌊⌋⌈⌉])</mo>(?!</mrow>)')


def to_mathml(tex: str, block: bool) -> str:
    """Return a formula in LaTeX as MathML; raise ValueError naming what the converter does not know."""
    for name, known in ALIASES.items():
        tex = re.sub(re.escape(name) + r"(?![A-Za-z])", lambda _, known=known: known, tex)
    tex = SHORT_FRACTION.sub(_braced, tex)
    if block:
        tex = ALIGNED.sub(r"\\\1{aligned}", re.sub(r"\\begin\{equation\*?\}|\\end\{equation\*?\}", "", tex))
        if "\\\\" in tex and r"\begin{" not in tex:
            tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    else:
        tex = re.sub(r"\\textstyle(?![A-Za-z])", "", tex)  # a formula in a line has that style already
    try:
        markup = ENTITY.sub(lambda match: html.unescape(match.group()), tex2mathml(tex.strip(), as_block=block))
        markup = _mend(re.sub(r"\s*\n\s*", "", markup))
    except Exception as error:  # docutils raises MathError, SyntaxError and, on odd input, others
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from None
    return BARS.sub(r'<mo stretchy="false"\2>\3</mo>', FENCED.sub(r'<\1><mo stretchy="false" form="postfix">', markup))


def _braced(match: re.Match) -> str:
    command, above, below = match.groups()
    return f"{command}{{{above}}}" + (f"{{{below}}}" if below else "")


def _mend(markup: str) -> str:
    r"""Return MathML in which \bar{x}_i has its index beside the letter, and \underbrace{x}_i its word below the brace.

    The converter does it the other way round in both cases.
    """
    root = ElementTree.fromstring(markup)
    for element in root.iter():
        below = element.tag == f"{NAMESPACE}munderover" and element[2].tag == f"{NAMESPACE}mo"
        if below and element[2].text in ACCENTS:
            base, index, accent = element
            element.tag = f"{NAMESPACE}msub"
            element[:] = [ElementTree.Element(f"{NAMESPACE}mover", accent="true"), index]
            element[0].extend([base, accent])
    for element in root.iter():
        script = {f"{NAMESPACE}msub": "munder", f"{NAMESPACE}msup": "mover"}.get(element.tag)
        if script and element[0].tag == f"{NAMESPACE}{script}" and element[0][-1].text in BRACES:
            element.tag = element[0].tag
    for sign in root.iter(f"{NAMESPACE}mo"):
        if sign.get("accent") and sign.text == "_":  # \overline
            sign.text = "‾"
        elif sign.text == "⧵":  # \setminus; few fonts have that one
            sign.text = "∖"
    return ElementTree.tostring(root, encoding="unicode")
