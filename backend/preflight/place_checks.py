"""The workspace: that it can be written to, that the nodes see it, that it has room; and the clocks."""

from __future__ import annotations

import time

from llama_tui.backend.catalog.machines import find_machine
from llama_tui.backend.errors import SchedulerError
from llama_tui.backend.estimates import estimate
from llama_tui.backend.preflight.check import Outcome, failed, passed, skipped, warned
from llama_tui.backend.preflight.facts import COMMAND_TIMEOUT, Facts

CLOCK_SKEW = 30.0
# Free space below this multiple of what the run needs is told of: estimates are not exact, and others write too.
NARROW = 1.3
# As /proc/mounts calls them.
_SHARED = {
    *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "beegfs_nodev", "ceph", "cifs", "smb3", "glusterfs", "afs"),
    *("wekafs", "panfs", "pvfs2", "orangefs", "ocfs2", "gfs2", "virtiofs", "9p", "efs", "daos", "quobyte"),
    *(
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.juicefs",
        "fuse.sshfs",
        "fuse.beegfs",
        "fuse.lustre",
        "fuse.dfuse",
    ),
}
_LOCAL = {
    "ext2",
    "ext3",
    "ext4",
    "xfs",
    "btrfs",
    "overlay",
    "tmpfs",
    "ramfs",
    "zfs",
    "f2fs",
    "devtmpfs",
    "squashfs",
}


def workspace_is_writable(facts: Facts) -> Outcome:
    """Really writes: what a mode says is not always so on a network file system."""
    disk, path = facts.disk(), facts.plan.workspace.path
    script = 'made=$(mktemp -d "$1/.llama-tui-preflight-XXXXXX") && rmdir "$made"'
    tried = facts.site.link.run(["/bin/sh", "-c", script, "sh", disk["place"]], timeout=COMMAND_TIMEOUT)
    if tried.exit != 0:
        said = (tried.stderr.strip().splitlines() or ["refused"])[-1].rsplit(": ", 1)[-1]
        what = path if disk["exists"] else f"{path} cannot be made: {disk['place']}"
        return failed(
            f"{what} cannot be written to by {facts.site.link.greeting.user}: {said}",
            "set paths.workspace to a directory of yours on the shared file system",
        )
    if facts.site.link.greeting.uid == 0 and facts.on_slurm:
        return warned(
            f"{path} can be written to, but as root: its files would be root's on the shared file system",
            "log in as the cluster's user, or set where.as_user (ubuntu on HyperPod)",
        )
    return passed(f"{path} " + ("is there and can be written to" if disk["exists"] else "can be made"))


def workspace_is_shared(facts: Facts) -> Outcome:
    """By the kind of its file system; only a job on a node (--on-node) really knows."""
    if not facts.on_slurm:
        return skipped("all stages run on this machine")
    disk = facts.disk()
    where = f"{disk['mount']} is {disk['kind'] or 'of unknown kind'}"
    if disk["kind"] in _SHARED:
        return passed(f"{where}: a shared file system")
    try:
        nodes = facts.partition_nodes(facts.nodes())
    except SchedulerError:
        return skipped(f"{where}; Slurm does not say where its nodes are")
    here = facts.site.link.greeting.host.partition(".")[0]
    away = [node.name for node in nodes if node.host.partition(".")[0] != here]
    if not away:
        return passed(f"{where}, and every node of the partition is on this machine")
    fix = (
        "set paths.workspace to a directory on the shared file system (/fsx on HyperPod; `df -T` shows kinds)"
    )
    if disk["kind"] in _LOCAL:
        return failed(f"{where}: a disk of this host, which {away[0]} does not see", fix)
    return warned(
        f"{where}: whether {away[0]} sees it is not known", "look from a node: --on-node; or " + fix
    )


def workspace_has_space(facts: Facts) -> Outcome:
    """Free bytes against the estimate, without what is there already."""
    free, settings = int(facts.disk()["free"]), facts.settings
    needs, unknown = [], []
    figures = estimate(settings, None, find_machine(settings.resources.machine), facts.model()).disk
    for name, figure in figures.items():
        there = (name.startswith("envs/") and (facts.environment_there or settings.paths.environment)) or (
            name.startswith("models/") and facts.model_there
        )
        if not there and figure.value is None:
            unknown.append(name)
        elif not there and figure.value:
            needs.append((figure.value, name))
    need = sum(value for value, _ in needs)
    largest = ", ".join(f"{name} {_size(value)}" for value, name in sorted(needs, reverse=True)[:3])
    words = f"{_size(free)} free, about {_size(need)} needed ({largest})"
    if any(name.startswith(("models/", "run/merged")) for name in unknown):
        words += "; the model's size is not known"
    if free < need:
        return failed(words, f"free some space in {facts.disk()['mount']}, or move paths.workspace (`df -h`)")
    if free < NARROW * need:
        return warned(f"{words}: narrow", "earlier runs' checkpoints and merged models may go")
    return passed(words)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def clocks_agree(facts: Facts) -> Outcome:
    """The host's clock against this computer's: times of stages and of tokens hang on it."""
    skew = facts.site.now() - time.time()
    if abs(skew) <= CLOCK_SKEW:
        return passed(f"{abs(skew):.0f} s apart" if abs(skew) >= 1 else "host and this computer agree")
    which = "ahead of" if skew > 0 else "behind"
    return warned(
        f"the host's clock is {abs(skew):.0f} s {which} this computer's: ages and times may look odd",
        "set the clock that is wrong (`timedatectl` on both shows which)",
    )
