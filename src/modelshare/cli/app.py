"""The program's root command: lists the commands, loads them on demand, and reports errors.

Commands are entry points of the group `modelshare.commands`. A command is imported when it is used, so that `modelshare
--help` is fast, and the client can be installed without the server's and agent's dependencies.
"""

import gc
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import modelshare
from modelshare import plugins
from modelshare.cli.exit_codes import ExitCode

PUBLISH, RUN, ACCOUNT, OPERATE = "Publish models", "Run models", "Project", "Operate a platform"


@dataclass(frozen=True, slots=True)
class Entry:
    """A command or command group in the help; the entry point has the same name."""

    name: str
    panel: str
    help: str


ENTRIES = (
    Entry("push", PUBLISH, "Upload a model: a folder, a .gguf file or an archive. Resumes an interrupted push."),
    Entry("register", PUBLISH, "Publish a model that lies in your bucket, where it lies. Nothing is copied."),
    Entry(
        "import",
        PUBLISH,
        "Copy a model from a Hugging Face Hub or an OCI registry. The platform does the work, and resumes it.",
    ),
    Entry("imports", PUBLISH, "List imports with their progress, and cancel one."),
    Entry("hold", PUBLISH, "Publish a model that stays on this machine: nothing is uploaded."),
    Entry("pull", PUBLISH, "Download one of your models into a folder. Resumes an interrupted pull."),
    Entry("verify", PUBLISH, "Compare a folder with a model's manifest: name the files that differ."),
    Entry("manifest", PUBLISH, "Print a version's manifest: its files with their digests."),
    Entry("uploads", PUBLISH, "List unfinished uploads, and cancel one."),
    Entry("models", PUBLISH, "List, show, rename, edit, delete and revalidate your models."),
    Entry(
        "share",
        PUBLISH,
        "Share a model in the catalog, with everyone or with certain projects. The weights stay yours.",
    ),
    Entry("sign", PUBLISH, "Sign a version with your key, from the digests of its files."),
    Entry("signers", PUBLISH, "Add, list and remove the public keys that sign your models; require signatures."),
    Entry("bom", PUBLISH, "Say what a model is made of: an AI bill of materials, or the EU AI Act's Annex XII."),
    Entry("unshare", PUBLISH, "Remove a model from the catalog. Existing endpoints keep serving."),
    Entry(
        "recall",
        PUBLISH,
        "Recall a model: unshare it, stop other projects' endpoints at a deadline and have the weights deleted.",
    ),
    Entry("catalog", RUN, "Search the public catalog. No key needed."),
    Entry("claim", RUN, "Claim a link: its model then appears in your view of the catalog."),
    Entry("deploy", RUN, "Create an endpoint that serves a model on a tier."),
    Entry("endpoints", RUN, "List, show, explain, change, activate, deactivate and delete your endpoints."),
    Entry("chat", RUN, "Chat with an endpoint."),
    Entry("tiers", RUN, "List the service tiers with their limits and prices. No key needed."),
    Entry("agent", RUN, "Run your project's models on this machine."),
    Entry("agents", RUN, "List, suspend and remove the machines that run your models."),
    Entry("join-keys", RUN, "Create, list and revoke join keys, which agents enrol with."),
    Entry(
        "login",
        ACCOUNT,
        "Check and store the platform's URL and your API key for the other commands.",
    ),
    Entry("keys", ACCOUNT, "Create, list, limit, rotate, suspend and revoke your project's API keys."),
    Entry(
        "usage",
        ACCOUNT,
        "Show requests, tokens and costs by day, endpoint, model, key and tier, or export them; limits and budgets.",
    ),
    Entry("audit", ACCOUNT, "Show who did what in your project, newest first."),
    Entry("webhooks", ACCOUNT, "Send events to your own services, and inspect the deliveries."),
    Entry("storage", ACCOUNT, "Keep your models in a bucket of your own, check it, and move models there or back."),
    Entry("serve", OPERATE, "Run the platform: API, pages and router in one process."),
    Entry("demo", OPERATE, "Run the platform with two projects and a tiny model, to try it out."),
    Entry("backup", OPERATE, "Back up the platform: database, weights, keys and settings."),
    Entry("restore", OPERATE, "Restore a backup into an empty data folder."),
    Entry("doctor", OPERATE, "Examine the platform, and say what to do."),
    Entry("secrets", OPERATE, "Rotate the keys that encrypt secrets in the database."),
    Entry(
        "platform",
        OPERATE,
        "Manage shared agents and their join keys, projects and featured models. Needs a platform key.",
    ),
    Entry(
        "projects",
        OPERATE,
        "List the platform's projects and set their storage quotas. Needs a platform key.",
    ),
    Entry(
        "jobs",
        OPERATE,
        "List background jobs that failed permanently, or run one again. Needs a platform key.",
    ),
    Entry("db", OPERATE, "Manage the platform's database."),
    Entry("admin", OPERATE, "Administer the platform from the server's machine."),
)

EPILOG = (
    "Exit codes: 0 success; 1 refused by the server, or failed; 2 usage error; 3 the platform is unreachable or "
    "rejects the key; 130 interrupted by Ctrl-C.\n\nMODELSHARE_URL and MODELSHARE_API_KEY set the platform's "
    "URL and your key; without them, commands read the file that `modelshare login` writes (MODELSHARE_CONFIG "
    "names another)."
)


class LazyGroup(TyperGroup):
    """Knows only the names and help texts of its commands, and imports a command when it is used."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for entry in ENTRIES:
            self.add_command(TyperCommand(entry.name, help=entry.help, rich_help_panel=entry.panel))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        entry = next((entry for entry in ENTRIES if entry.name == name), None)
        return name, command if entry is None else load(entry), rest

    def main(self, *args: Any, **options: Any) -> Any:
        """Runs the program. Always raises SystemExit with one of `ExitCode`."""
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except typer.TyperException as error:
            code = _usage_error(error)
        except typer.Abort:
            code = ExitCode.INTERRUPTED
        except Exception as error:  # noqa: BLE001 - users get a sentence, never a traceback
            code = _failed(error)
        sys.exit(code if isinstance(code, int) else ExitCode.DONE)


app = typer.Typer(cls=LazyGroup, name="modelshare", epilog=EPILOG, pretty_exceptions_enable=False)


def main() -> None:
    app()


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Publish AI models into a public catalog without surrendering the weights."""
    if version:
        typer.echo(f"modelshare {modelshare.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def load(entry: Entry) -> Any:
    """The entry's command, with the help from `ENTRIES`."""
    command = typer.main.get_command(load_part("modelshare.commands", entry.name))
    command.name = entry.name
    command.help = command.help or entry.help
    return command


def load_part(group: str, name: str) -> Any:
    """Loads an entry point. Raises PluginError if its dependencies are not installed."""
    collects = gc.isenabled()
    gc.disable()  # imported objects are permanent, so collecting during imports only wastes a tenth of the time
    try:
        return plugins.load(plugins.find(group)[name])
    finally:
        if collects:
            gc.enable()


def _usage_error(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    hint = "" if context is None else f" See `{context.command_path} --help`."
    message = " ".join(error.format_message().split())
    end = "" if message.endswith((".", "?")) else "."
    typer.echo(f"Error: {message}{end}{hint}", err=True)
    return error.exit_code


def _failed(error: Exception) -> int:
    failure = load_part("modelshare.parts", "failures")(error)
    typer.echo(f"Error: {failure.message}", err=True)
    return int(failure.code)
