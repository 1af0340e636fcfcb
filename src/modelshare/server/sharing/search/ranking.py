"""Ranks models by how well their names match a query. Pure."""

from modelshare.server.sharing.search.tokenizer import asked

_JOINTS = str.maketrans("", "", "-_.")

EXACT, BEGINS, ALL_WORDS, ELSEWHERE = 3, 2, 1, 0


class Ranking:
    """The ranking for one query."""

    def __init__(self, query: str | None) -> None:
        self._words = asked(query or "")
        self._joined = "".join(self._words)

    def rank(self, name: str) -> int:
        """Higher is better; equal for all names without a query. `name` must be in lower case."""
        if not self._words:
            return ELSEWHERE
        joined = name.translate(_JOINTS)
        if joined == self._joined:
            return EXACT
        if joined.startswith(self._joined):
            return BEGINS
        return ALL_WORDS if all(word in joined for word in self._words) else ELSEWHERE
