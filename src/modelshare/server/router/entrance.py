"""How one request passes the limits of its endpoint: at once, with what the database lends, or after it has waited."""

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

from modelshare.server.errors import RateLimitedError
from modelshare.server.router.admission import Gate, Payer
from modelshare.server.router.request_head import checked_endpoint
from modelshare.server.router.request_queue import Patience, Waiter
from modelshare.wire.errors import ErrorCode
from modelshare.wire.keys import NO_LIMITS

if TYPE_CHECKING:
    from modelshare.server.router.call import Call
    from modelshare.server.router.service import Router


class Entrance:
    """Implements `request_queue.Waiter`. Ends with one call of `call.admitted`, or with an error of the request."""

    def __init__(self, router: "Router", call: "Call") -> None:
        self.gate: Gate | None = None
        """Once the request was let in."""
        self._router = router
        self._call = call
        self._refusal: RateLimitedError | None = None
        self._patience: Patience | None = None
        """If it has to wait, or had to."""
        self._is_asking = False
        """The database is asked whether it lends something."""

    def begin(self) -> None:
        """Raises RateLimitedError if the request is refused."""
        queue, endpoint_id = self._router.queue, self._call.endpoint.id
        if queue.count and (first := queue.first(endpoint_id)) is not None:
            self._refusal = first.refusal
            self._wait_behind(queue.length(endpoint_id))
        elif self.try_turn():
            self._pass()
        elif not self._is_asking:
            self._wait_behind(0)

    # For the queue.

    @property
    def refusal(self) -> RateLimitedError:
        assert self._refusal is not None  # noqa: S101 - set before it waits
        return self._refusal

    @property
    def blocks_others(self) -> bool:
        return self._payer() is None or self._is_asking or self.refusal.code is ErrorCode.CAPACITY_EXCEEDED

    def try_turn(self) -> bool:
        if self._is_asking:
            return False
        gate = self._current_gate()
        try:
            has_entered = gate.enter()
        except RateLimitedError as refusal:
            self._refusal = refusal
            return False
        if has_entered:
            self.gate = gate
        else:
            self._is_asking = True
            self._call.later(self._ask(gate))
        return has_entered

    def go_on(self) -> None:
        self.waited()
        self._call.guard(self._go_on)

    def _go_on(self) -> None:
        """Its turn has come: the endpoint may have changed since."""
        call = self._call
        found = self._router.snapshots.known(call.head.project_id, call.head.slug)
        if found is None or (found.value is not None and found.value.awaits_agent(self._router.clock())):
            call.later(self._look_again())
        else:
            call.endpoint = checked_endpoint(call.head, found.value, self._router.clock())
            self._pass()

    async def _look_again(self) -> None:
        await self._call.refresh()
        self._pass()

    async def _ask(self, gate: Gate) -> None:
        """Enters with what the database can lend."""
        try:
            await gate.enter_later()
        except RateLimitedError as refusal:
            self._is_asking, self._refusal = False, refusal
            if not self.is_waiting:
                self._wait_behind(0)
            return
        self._is_asking, self.gate = False, gate
        if self._patience is None or not self.is_waiting:
            self._pass()
            return
        self._patience.leave()
        self._router.queue.freed(self._call.endpoint.id)
        self.waited()
        await self._look_again()

    # Waiting, here and for a machine.

    @property
    def is_waiting(self) -> bool:
        return self._patience is not None and self._patience.is_waiting

    def wait(self, waiter: Waiter, subjects: Iterable[Hashable], size: int = 0, *, is_first: bool = False) -> None:
        """Waits for one of the subjects; see `Ticket`. Raises RateLimitedError if there is no time or space for it."""
        patience = self._patient()
        if not patience.begin(waiter, subjects, size, is_first=is_first):
            raise waiter.refusal
        self._call.deadline = patience.until

    def waited(self) -> None:
        """It had its turn."""
        if self._patience is not None:
            self._patience.has_left()
            self._call.show(self._patience.headers())

    def give_up(self, waiter: Waiter | None) -> None:
        """It has waited in vain. Raises RateLimitedError. `waiter`: what waited, if not this."""
        patience, refusal = self._patient(), (waiter or self).refusal
        place = patience.place
        patience.leave()
        self._call.show([*self._current_gate().headers(), *patience.headers(place)])
        raise patience.over(refusal, place)

    def leave_queue(self) -> None:
        if self._patience is not None and self._patience.is_waiting:
            self._patience.leave()

    def _wait_behind(self, others: int) -> None:
        """Waits at the endpoint's limits. Raises RateLimitedError if it would be too long."""
        self._call.show(self._current_gate().headers())
        self._patient().check(others, self.refusal)
        if self._call.head.header(b"expect"):  # who waits to be asked for the body would count as stalled
            self._call.take()
        self.wait(self, (self._call.endpoint.id,))

    def _pass(self) -> None:
        assert self.gate is not None  # noqa: S101 - it was let in
        if headers := self.gate.headers():
            self._call.show(headers)
        self._call.admitted()

    def _patient(self) -> Patience:
        if self._patience is None:
            queue, endpoint = self._router.queue, self._call.endpoint
            self._patience = Patience(queue, endpoint.project_id, endpoint.id, endpoint.tier, self._router.now)
        return self._patience

    def _current_gate(self) -> Gate:
        endpoint = self._call.endpoint
        return self._router.admission.gate(endpoint.id, endpoint.tier, self._payer())

    def _payer(self) -> Payer | None:
        endpoint, caller = self._call.endpoint, self._call.caller
        if caller.limits is None and endpoint.monthly_budget is None:
            return None
        return Payer(endpoint.project_id, caller.id, caller.limits or NO_LIMITS, endpoint.monthly_budget)
