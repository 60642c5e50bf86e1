"""`mesh up`, `down`, `status`: the mesh on this machine."""

import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli.failure import run
from mesh.cli.option import FLAG, Data, Json, data_folder
from mesh.cli.output import busy, say, show
from mesh.errors import MeshError, Unavailable

if TYPE_CHECKING:
    from mesh.supervisor import MeshRun
    from mesh.wire.v1.gateway_pb2 import GetStatusResponse

__all__ = ["down", "status", "up"]

_STATUS_S = 3.0


def up(
    *,
    manifest: Annotated[
        Path, typer.Option("--manifest", metavar="FILE", help="Which services to start.")
    ] = Path("mesh.toml"),
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", metavar=FLAG, help="Return when everything serves; keep it running."
        ),
    ] = False,
    data: Data = None,
) -> None:
    """Start what the manifest names and keep it running."""
    folder = data_folder(data)
    if detach:
        _up_detached(manifest, folder)
    else:
        _up_here(manifest, folder)


def down(*, data: Data = None) -> None:
    """Stop the mesh that runs on the data folder; fine if none does."""
    from mesh.supervisor import bring_down

    folder = data_folder(data)
    with busy("stopping …"):
        ended = run(lambda: bring_down(folder))
    if ended.pid:
        say(f"mesh: stopped (pid {ended.pid})")
    elif not ended.leftovers:
        say(f"mesh: no mesh is running in {folder}")
    if ended.leftovers:
        say(f"mesh: ended what a killed supervisor left: {', '.join(ended.leftovers)}")


def status(*, data: Data = None, json: Json = False) -> None:
    """Show the processes of the mesh and how far the ledger is; exit code 3 if none runs."""
    from mesh.supervisor import find_run

    folder = data_folder(data)
    mesh = find_run(folder)
    if mesh is None:
        raise Unavailable(f"no mesh is running in {folder}; `mesh up` starts one")
    shards = run(lambda: _shards(folder))
    if json:
        print(jsonlib.dumps(_as_json(mesh, folder, shards), indent=2))
        return
    from mesh.cli.status import status_view

    show(*status_view(mesh, shards))


def _up_here(manifest: Path, folder: Path) -> None:
    from mesh.bootstrap import environment
    from mesh.config import load_manifest
    from mesh.supervisor import planned, serve

    plan = planned(
        load_manifest(manifest),
        data=folder,
        folder=manifest.parent,
        manifest_path=str(manifest.resolve()),
        environment=environment(),
    )
    seen: dict[tuple[str, int], tuple[str, int]] = {}

    def changed(mesh: "MeshRun") -> None:
        for each in mesh.services:
            key, now = (each.name, each.replica), (each.state, each.pid)
            if seen.get(key, ("stopped", 0)) != now:
                seen[key] = now
                pid = f" (pid {each.pid})" if each.pid else ""
                say(f"mesh: {each.label} {each.state}{pid}")

    def ready(mesh: "MeshRun") -> None:
        say(f"mesh: ready, gateway at {mesh.gateway}; logs in {folder / 'logs'}; Ctrl-C stops it")

    run(lambda: serve(plan, changed, ready))


def _up_detached(manifest: Path, folder: Path) -> None:
    from mesh.bootstrap import environment
    from mesh.config import load_manifest
    from mesh.supervisor import start_detached

    # Here too, so that a mistake in it is found before anything is written.
    load_manifest(manifest)
    with busy("starting …") as progress:

        def changed(mesh: "MeshRun") -> None:
            waiting = [each.label for each in mesh.services if each.state != "running"]
            progress(f"starting {', '.join(waiting)} …")

        mesh = run(lambda: start_detached(manifest, folder, environment(), changed))
    say(
        f"mesh: ready (pid {mesh.pid}), gateway at {mesh.gateway}; logs in {folder / 'logs'};"
        " `mesh down` stops it"
    )


async def _shards(folder: Path) -> "GetStatusResponse | MeshError":
    """What the gateway says of the log; the error if it says nothing, which is news too."""
    import anyio

    from mesh.cli.reach import gateway
    from mesh.wire.v1.gateway_pb2 import GetStatusRequest

    try:
        with anyio.fail_after(_STATUS_S):
            async with gateway(folder) as line:
                return await line.call(line.stub.GetStatus, GetStatusRequest())
    except MeshError as e:
        return e
    except TimeoutError:
        return Unavailable(f"the gateway did not answer within {_STATUS_S:.0f} s")


# Any: JSON.
def _as_json(
    mesh: "MeshRun", folder: Path, shards: "GetStatusResponse | MeshError"
) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    services = [{k: v for k, v in asdict(each).items() if k != "mark"} for each in mesh.services]
    status: dict[str, Any] = {
        "services": services,
        "pid": mesh.pid,
        "startedAt": mesh.started_at,
        "tenant": mesh.tenant,
        "data": str(folder.resolve()),
        "manifest": mesh.manifest,
        "gateway": mesh.gateway,
        "ledger": mesh.ledger,
        "natsUrl": mesh.nats_url,
        "durability": "always" if mesh.sync_always else "interval",
    }
    if isinstance(shards, MeshError):
        return {**status, "shards": [], "gatewayError": str(shards)}
    reply = MessageToDict(shards, always_print_fields_with_no_presence=True)
    return {**status, "shards": reply["shards"]}
