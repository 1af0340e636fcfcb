"""Texts for the audit log: actions, targets and details. Pure."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from modelshare.server.web.number_format import date, size
from modelshare.wire.usage import AuditEntry

_SAID_OTHERWISE: Final[Mapping[str, str]] = {
    "agent.enroll": "Agent enrolled",
    "agent.delete_weights": "Weights deleted from an agent",
    "agent.report_wrong_bytes": "Wrong bytes received from agent",
    "budget.exhaust": "Budget used up",
    "budget.warn": "Budget nearly used up",
    "endpoint.recall": "Recall reached endpoint",
    "endpoint.recall_cancel": "Recall of endpoint cancelled",
    "endpoint.stop": "Endpoint stopped by a recall",
    "endpoint.make_token": "Token of endpoint created",
    "endpoint.revoke_token": "Token of endpoint revoked",
    "grant.issue": "Agent received download links",
    "job.retry": "Job run again",
    "key.change_limits": "Change limits of key",
    "model.change_audience": "Change audience of model",
    "model.delete_version": "Delete version of model",
    "model.edit_version": "Edit version of model",
    "model.end_link": "Revoke claim link",
    "model.failed": "Model rejected by checks",
    "model.hold": "Model registered on its owner's machine",
    "model.invite": "Model shared with this project",
    "model.ready": "Model ready",
    "model.cancel_move": "Cancel move of model",
    "model.moved": "Model moved to other storage",
    "model.move_failed": "Model not moved",
    "model.recall_cancel": "Cancel recall",
    "model.register": "Register model in its bucket",
    "model.revalidate": "Check model again",
    "model.change_role": "Catalog role changed",
    "model.rollback": "Roll back model",
    "project.change_signatures": "Change required signatures",
    "person.set_admin": "Change platform admin",
    "person.change_password": "Change password",
    "person.sign_up": "Sign up",
    "project.change_budget": "Change budget of project",
    "project.change_quota": "Change quota of project",
    "weights.pull": "Weights downloaded",
    "weight_deletion.close": "Unconfirmed weights closed",
    "member.change_role": "Change role of member",
    "upload.expire": "Upload expired",
    "import.start": "Import model",
    "import.cancel": "Cancel import",
    "import.fail": "Import failed",
    "webhook.deactivate": "Webhook disabled",
}
"""Texts of actions that cannot be derived from verb and subject."""
SUBJECTS: Final[Mapping[str, str]] = {
    "model": "Models",
    "upload": "Uploads",
    "import": "Imports",
    "endpoint": "Endpoints",
    "agent": "Agents",
    "grant": "Download links",
    "join_key": "Join keys",
    "key": "Keys",
    "member": "Members",
    "invitation": "Invitations",
    "webhook": "Webhooks",
    "signer": "Signers",
    "project": "Projects",
    "person": "Users",
    "weight_deletion": "Weight deletions",
    "weights": "Downloads of weights",
    "job": "Jobs",
    "budget": "Budgets",
}
"""Subjects of actions, and their plurals."""
_NAMES: Final = ("name", "slug")
_LONG: Final = 16
_SIZES: Final = frozenset({"quota", "quota_before"})
_TIMES: Final = frozenset({"deadline", "expires_at"})


def action(name: str) -> str:
    """`key.revoke` as `Revoke key`."""
    subject, _, verb = name.partition(".")
    return _SAID_OTHERWISE.get(name) or f"{verb} {subject}".replace("_", " ").strip().capitalize()


def choices(chosen: str | None) -> list[tuple[str, str]]:
    """The options of the filter, with texts: everything, each subject, and the selected action."""
    own = [(chosen, action(chosen))] if chosen and chosen not in SUBJECTS else []
    return [("", "All actions"), *own, *SUBJECTS.items()]


def subject_of(reference: str) -> tuple[str, str]:
    """Splits `key:<id>` into `key` and the ID."""
    subject, _, id_ = reference.partition(":")
    return subject, id_


def called(entry: AuditEntry) -> str | None:
    """The target's name at the time of the action, if the entry has it."""
    return next((str(entry.details[name]) for name in _NAMES if entry.details.get(name)), None)


def details(entry: AuditEntry, said: Collection[str]) -> list[tuple[str, str]]:
    """The entry's details, except those in `said`."""
    told = ((name, value) for name, value in entry.details.items() if name in _SIZES or value not in (None, [], {}))
    values = {name: _value(name, value) for name, value in told}
    return [(name.replace("_", " "), value) for name, value in values.items() if value not in said]


def short(id_: str) -> str:
    """A shortened ID."""
    return f"{id_[:8]}…{id_[-4:]}" if len(id_) > _LONG else id_


def everywhere_ms(entry: AuditEntry) -> int | None:
    """Milliseconds until the last process applied the change; None while one has not, or if none has to confirm."""
    if entry.pending or not entry.confirmations:
        return None
    return max(each.after_ms for each in entry.confirmations)


def _value(name: str, value: Any) -> str:
    if name in _TIMES and isinstance(value, int):
        return date(value)
    if name in _SIZES:
        return "the platform's default" if value is None else size(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(str(each) for each in value) if isinstance(value, list) else str(value)
