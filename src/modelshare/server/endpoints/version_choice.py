"""Applies the rule in `sharing.rules` for the version that an endpoint gets. Makes no queries."""

from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.endpoints.tables import EndpointRow
from modelshare.server.registry import service as registry
from modelshare.server.registry.tables import VersionRow
from modelshare.server.sharing import last_shown, rules
from modelshare.server.sharing.rules import LastShown, SignatureRequirement
from modelshare.wire.endpoints import Reason
from modelshare.wire.sharing import Audience


def stays_at(row: EndpointRow) -> LastShown | None:
    """The state at which it stays; None while its model is visible to its project. Needs relationships loaded."""
    return rules.stays_at(
        is_owner=row.model is not None and row.model.project_id == row.project_id,
        audience=Audience(row.share.audience) if row.share else None,
        is_invited=row.invitation is not None,
        own=last_shown.fact(row.last_shown),
        everybody=last_shown.fact(row.last_public),
    )


def wanted(row: EndpointRow) -> VersionRow | None:
    """The version that it should serve; None if there is none."""
    if row.model is None:
        return None
    return rules.version_wanted(row.version, registry.ready(row.model), stays_at(row))


def choosable(row: EndpointRow) -> list[VersionRow]:
    """The versions that may be selected for it, oldest first."""
    return rules.choosable(registry.ready(row.model), stays_at(row)) if row.model else []


def signature_reason(row: EndpointRow, version: VersionRow) -> Reason | None:
    """Why the endpoint may not take up this version of its model, where its signature is what stands in the way."""
    if row.model is None:
        return None
    return rules.signature_reason(version, requirements(row.project, row.model.project, row.tier, row.tier_signers))


def requirements(
    deployer: ProjectRow, owner: ProjectRow, tier: str, tier_signers: str | None
) -> list[SignatureRequirement]:
    """All that is required of the signature of a version which one project deploys of another's, or of its own."""
    found = []
    if deployer.require_signature:
        allowed = frozenset(deployer.allowed_signers) if deployer.id != owner.id else frozenset[str]()
        remedy = "change what it requires with `modelshare signers require`"
        found.append(SignatureRequirement("Your project", remedy, allowed))
    if owner.require_signature and owner.id != deployer.id:
        found.append(SignatureRequirement("The model's owner", "choose a version that is signed"))
    if tier_signers is not None:
        allowed = frozenset(tier_signers.split())
        found.append(SignatureRequirement(f"The tier `{tier}`", "choose another tier", allowed))
    return found


def note(row: EndpointRow) -> str | None:
    """Why it does not follow the latest version although it is set to `latest`."""
    if row.version is not None or row.model is None or stays_at(row) is None:
        return None
    version = wanted(row)
    stays = f"it stays at {version.version}, the last shared version" if version else "no shared version is left"
    return f"The model is no longer shared with your project. Later versions do not reach this endpoint: {stays}."
