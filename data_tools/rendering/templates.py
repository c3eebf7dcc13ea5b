"""Chat templates in a sandbox that ends: steps and sizes are counted, whatever a template does.

A template comes with a downloaded model. The sandbox keeps it from the machine; what it does not
keep it from is to loop for ever or to build a text of gigabytes, so loops, calls, sums, products
and joined texts are counted here. Counts, unlike a clock, decide the same way on every machine.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, markup_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

STEPS = 200_000
"""Loop turns and calls a conversation; a real template takes some tens a message."""
SIZE = 10_000_000
"""Characters or members of any value, and of the text in the end."""
DIGITS = 4_000
OPEN, CLOSE = "\ue000", "\ue001"
"""Private-use marks put around what a template says the model generated."""
ITS_FAULTS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError)
"""What a template may raise; none of it is a fault of ours."""


class Counted(ImmutableSandboxedEnvironment):
    """The sandbox of transformers' chat templates, with an end.

    Raises, in use:
        TemplateError: Where a template takes more steps or room than any real one.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        self.steps = 0
        self.globals["raise_exception"] = _refuse
        self.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)

    def render(self, source: Any, **given: Any) -> str:
        """The text that a template of this environment makes, its steps counted from zero."""
        self.steps = 0
        pieces: list[str] = []
        size = 0
        for piece in source.generate(**given):
            size += len(piece)
            if size > SIZE:
                _too_large(size)
            pieces.append(piece)
        return "".join(pieces)

    def counted(self, values: Iterable[Any]) -> Iterator[Any]:
        """The members of what a loop runs over, each a step."""
        for value in values:
            self._step()
            yield value

    def joined(self, *values: Any) -> str:
        """What `~` makes of its operands."""
        text = markup_join(values)
        if len(text) > SIZE:
            _too_large(len(text))
        return text

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function or a macro: a step."""
        self._step()
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute what may grow: sums, products, powers and `%` formats."""
        if operator == "**":
            _power(left, right)
        elif operator == "*":
            _product(left, right)
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, str | list | tuple) and len(result) > SIZE:
            _too_large(len(result))
        return result

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template: nodes.Template = _Counting().visit(super()._parse(source, name, filename))
        return template

    def _step(self) -> None:
        self.steps += 1
        if self.steps > STEPS:
            raise TemplateError(f"it takes more than {STEPS:,} steps: does it end?")


class _Counting(NodeTransformer):
    """Sends what loops run over, and joined texts, through the environment."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _through("counted", [node.iter])
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _through("joined", node.nodes)


class _Generation(Extension):
    """transformers' `{% generation %}` block: what a template says carries loss."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        """Keep the body, between two marks."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_marked")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        return f"{OPEN}{caller()}{CLOSE}"


def _through(name: str, values: Sequence[nodes.Node]) -> nodes.Call:
    call = nodes.Call(nodes.EnvironmentAttribute(name), list(values), [], None, None)
    call.set_lineno(values[0].lineno)
    return call


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _too_large(size: float) -> NoReturn:
    raise TemplateError(f"it makes a text or list of {size:,} parts")


def _power(base: Any, exponent: Any) -> None:
    if isinstance(base, int) and isinstance(exponent, int):
        digits = abs(exponent) * len(str(abs(base)))
        if digits > DIGITS:
            raise TemplateError("it makes a number of thousands of digits")


def _product(left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(times, int):
            if len(value) * times > SIZE:
                _too_large(len(value) * times)
            return
