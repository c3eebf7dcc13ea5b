"""Templates come with downloaded models: they run in a sandbox with limits on steps and sizes."""

from dataclasses import replace

import pytest
from support import make_tokenizer

from alignment.errors import ConfigError
from data_tools.formats import Unusable
from data_tools.rendering import ChatTemplate, from_transformers

TURNS = [
    {"role": "system", "content": "你是助手。"},
    {"role": "user", "content": "二加二等于几？"},
    {"role": "assistant", "content": "四。"},
    {"role": "user", "content": "Say hello."},
    {"role": "assistant", "content": "Hello!"},
]
REFUSED = "the chat template refuses this row"


def chat_template(text: str) -> ChatTemplate:
    return ChatTemplate(replace(from_transformers(make_tokenizer()), template=text))


def test_a_template_cannot_leave_its_sandbox() -> None:
    with pytest.raises(Unusable, match=REFUSED):
        chat_template("{{ messages.__class__.__mro__ }}").text(TURNS[1:2])


ENDLESS = {
    "nested loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}"
    ),
    "a macro without an end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a loop over itself": (
        "{% for m in messages recursive %}{{ loop(messages) }}{{ loop(messages) }}{% endfor %}"
    ),
    "doubled text": (
        "{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}"
        "{% endfor %}"
    ),
    "summed lists": (
        "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}"
        "{% endfor %}"
    ),
    "a product": "{{ 'a' * 10 ** 11 }}",
    "a power": "{{ 9 ** 9 ** 9 ** 9 ** 9 ** 9 }}",
    "much text": "{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_without_an_end_is_refused(name: str) -> None:
    with pytest.raises(Unusable, match=REFUSED):
        chat_template(ENDLESS[name]).text(TURNS[1:2])


def test_steps_are_counted_from_zero_for_every_row() -> None:
    template = chat_template("{% for i in range(99999) %}{% endfor %}x")
    assert [template.text(TURNS[1:2]) for _ in range(12)] == ["x"] * 12


def test_counting_leaves_loops_as_they_are() -> None:
    template = (
        "{% for m in messages if m.role != 'system' %}{{ loop.index ~ '/' ~ loop.length }}"
        "{{ '' if loop.last else ',' }}{% else %}none{% endfor %}"
        "{% for key, value in {'a': 1}.items() %} {{ key }}{{ value }}{% endfor %}"
        "{% for x in nothing %}{% else %} {{ loop is defined }}{% endfor %}"
    )
    assert chat_template(template).text(TURNS) == "1/4,2/4,3/4,4/4 a1 False"


@pytest.mark.parametrize("template", ["{{ 1 + 'a' }}", "{{ messages[0].content + none }}"])
def test_faults_of_a_template_are_named_as_such(template: str) -> None:
    with pytest.raises(Unusable, match=REFUSED):
        chat_template(template).text(TURNS[1:2])


def test_a_template_that_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match="the chat template cannot be read"):
        chat_template("{% for %}")
