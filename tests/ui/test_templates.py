"""Templates escape what they are given, and refuse to leave a value out."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio")

from jinja2 import UndefinedError
from markupsafe import escape

from lwq_ui.core.orderings import ORDERINGS
from lwq_ui.engine.quantizers import QUANTIZERS
from lwq_ui.ui.page import meaning
from lwq_ui.ui.status import error_html, status_html
from lwq_ui.ui.templates import lines_html, paragraphs_html, render

HOSTILE = "<i title='\"'> & </i> <b>"


@pytest.mark.parametrize("html_of", [status_html, error_html, paragraphs_html, lines_html])
def test_text_is_never_html(html_of):
    html = html_of(HOSTILE)
    assert "&lt;i title=&#39;&#34;&#39;&gt; &amp; &lt;/i&gt; &lt;b&gt;" in html


def test_a_value_that_is_not_given_is_an_error():
    with pytest.raises(UndefinedError, match="text"):
        render("error.html")


def test_the_status_line():
    assert status_html("Ready.") == '<div class="idle"><span>Ready.</span></div>'
    assert status_html("Packing", share=0.256, left="1 min left", running=True) == (
        '<div class="running"><span>Packing</span><b>26%</b><progress max="1" value="0.256" '
        'aria-label="Progress"></progress><i>1 min left</i></div>'
    )
    assert "value" not in status_html("Loading", running=True)


def test_half_a_surrogate_pair_can_be_sent():
    assert "broken?name" in error_html("broken\udc80name")


@pytest.mark.parametrize("registered", [*ORDERINGS.values(), *QUANTIZERS.values()])
def test_every_ordering_and_quantizer_is_explained(registered):
    title = getattr(registered, "heading", None) or registered.title
    assert escape(f"- *{title}*. {registered.meaning}") in meaning()
