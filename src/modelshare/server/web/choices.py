"""Forms with several options that have fields of their own.

A form with input in fields of an option that is not selected is rejected, since ignoring the input could do something
the user did not intend. Such forms are read by a `Choice`, and rendered from it by the macros `choice` and `option`;
`CHOICES` lists them for a test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fastapi import Request

from modelshare.server.errors import InvalidRequestError

CHOICES: Final[list["Choice"]] = []
"""All choices."""
_LONGEST: Final = 100_000
"""Maximum characters of a field."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field that belongs to one option."""

    name: str
    words: str
    """The label."""
    untouched: str = ""
    """The initial value. Neither this nor an empty value counts as input."""
    many: bool = False
    """Whether it may have several values, like checkboxes."""


@dataclass(frozen=True, slots=True)
class Option:
    value: str
    words: str
    fields: tuple[Field, ...] = ()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The selected option and the input in its fields."""

    value: str
    typed: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """The field's value, without surrounding spaces; empty without input."""
        return next(iter(self.typed.get(name, ())), "").strip()

    def all(self, name: str) -> list[str]:
        return list(self.typed.get(name, ()))


@dataclass(frozen=True)
class Choice:
    """A question of a form. `otherwise`: the default option; None if one must be selected."""

    name: str
    ask: str
    """The message if none is selected."""
    options: tuple[Option, ...]
    otherwise: str | None = None

    def __post_init__(self) -> None:
        CHOICES.append(self)

    def option(self, value: str) -> Option:
        """For templates."""
        return next(option for option in self.options if option.value == value)

    async def read(self, request: Request) -> Chosen:
        """A dependency of routes: the selected option. 400 if the form is contradictory, or no option is selected."""
        form = await request.form()
        names = [self.name, *(each.name for option in self.options for each in option.fields)]
        return self.resolve({name: [str(value) for value in form.getlist(name)] for name in names})

    def resolve(self, form: Mapping[str, Sequence[str]]) -> Chosen:
        """The selected option or, if none is, the one whose fields have input. Pure."""
        named = self._named(form)
        filled = {option: found for option in self.options if (found := _filled(option, form))}
        if named is None and len(filled) > 1:
            raise _contradiction(*list(filled.items())[:2])
        chosen = named or next(iter(filled), None) or self._unsaid(form)
        for option, fields in filled.items():
            if option is not chosen:
                raise _contradiction((chosen, ()), (option, fields))
        return Chosen(chosen.value, {each.name: form.get(each.name, ()) for each in chosen.fields})

    def _named(self, form: Mapping[str, Sequence[str]]) -> Option | None:
        values = [value for value in form.get(self.name, ()) if value]
        if len(values) > 1:
            raise InvalidRequestError(f"`{self.name}` was sent {len(values)} times. {self.ask}", param=self.name)
        found = next((option for option in self.options if [option.value] == values), None)
        if values and found is None:
            known = ", ".join(option.value for option in self.options)
            raise InvalidRequestError(f"`{self.name}` must be one of {known}.", param=self.name)
        return found

    def _unsaid(self, form: Mapping[str, Sequence[str]]) -> Option:
        """The option for a form without a selection, from a program: the one whose fields are present, else the
        default."""
        if self.otherwise is None:
            raise InvalidRequestError(self.ask, param=self.name)
        sent = (option for option in self.options if any(any(form.get(each.name, ())) for each in option.fields))
        return next(sent, self.option(self.otherwise))


def _filled(option: Option, form: Mapping[str, Sequence[str]]) -> tuple[Field, ...]:
    """The option's fields that have input. 400 for values that a form cannot send."""
    for each in option.fields:
        values = form.get(each.name, ())
        if len(values) > 1 and not each.many:
            raise InvalidRequestError(f"“{each.words}” was sent {len(values)} times. Send it once.", param=each.name)
        if any(len(value) > _LONGEST for value in values):
            raise InvalidRequestError(f"“{each.words}” is too long. Shorten it.", param=each.name)
    return tuple(
        each
        for each in option.fields
        if any(value.strip() not in {"", each.untouched} for value in form.get(each.name, ()))
    )


def _contradiction(
    chosen: tuple[Option, tuple[Field, ...]], other: tuple[Option, tuple[Field, ...]]
) -> InvalidRequestError:
    (one, _), (another, fields) = chosen, other
    return InvalidRequestError(
        f"The form has “{one.words}” selected, but “{fields[0].words}” belongs to “{another.words}”. Choose "
        f"“{another.words}”, or clear that field. Nothing was changed.",
        param=fields[0].name,
    )
