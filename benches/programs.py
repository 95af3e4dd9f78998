"""Backup programs, and the plain tools that are their floors: how each does the same work."""
import os, shutil
from dataclasses import dataclass, field
from shlex import quote


@dataclass
class At:
    """Where a program works. The paths are quoted for the shell."""
    source: str  # what is backed up
    store: str
    home: str    # of the program: its caches and configuration
    out: str     # where it restores to
    mnt: str     # where it mounts

    def __post_init__(self):
        for name in vars(self):
            setattr(self, name, quote(getattr(self, name)))


@dataclass
class Program:
    """Shell commands. None: it cannot, or it is no part of what is compared."""
    name: str
    init: str = "true"
    backup: str | None = None
    again: str | None = None    # the floor of an unchanged backup
    restore: str | None = None
    check: str | None = None    # all data
    mount: str | None = None    # in the foreground
    shown: str | None = None    # what the mount shows of the source; None: to be looked for
    stat: str | None = None     # the floor of a walk through the mount
    copy: str | None = None     # the floor of a copy out of the mount
    version: str | None = None
    env: dict = field(default_factory=dict)


def plakar(x, at):
    c = f"{x} -quiet at {at.store}"
    return Program("plakar", version=f"{x} version", init=f"{c} create", backup=f"{c} backup {at.source}", restore=f"{c} restore -to {at.out} latest",
                   check=f"{c} check", mount=f"{c} mount -to {at.mnt}", shown=f"{at.mnt}/latest{at.source}")


def restic(x, at):
    return Program("restic", version=f"{x} version", env={"RESTIC_REPOSITORY": at.store, "RESTIC_PASSWORD": "pw"}, init=f"{x} init",
                   backup=f"{x} backup --compression auto {at.source}", restore=f"{x} restore latest --target {at.out}", check=f"{x} check --read-data",
                   mount=f"{x} mount {at.mnt}", shown=f"{at.mnt}/snapshots/latest{at.source}")


def rustic(x, at):
    return Program("rustic", version=f"{x} --version", env={"RUSTIC_REPOSITORY": at.store, "RUSTIC_PASSWORD": "pw"}, init=f"{x} init",
                   backup=f"{x} backup {at.source}", restore=f"{x} restore latest {at.out}", check=f"{x} check --read-data", mount=f"{x} mount {at.mnt}")


def borg(x, at):
    newest = f"::$({x} list --short --last 1)"
    env = {"BORG_REPO": at.store, "BORG_PASSPHRASE": "pw", "BORG_BASE_DIR": at.home, "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
    return Program("borg", version=f"{x} --version", env=env, init=f"{x} init -e repokey-blake2", backup=f"{x} create -C zstd,3 ::a-$(date +%s%N) {at.source}",
                   restore=f"mkdir -p {at.out} && cd {at.out} && {x} extract {newest}", check=f"{x} check --verify-data",
                   mount=f"{x} mount -f {newest} {at.mnt}", shown=f"{at.mnt}{at.source}")


def vykar(x, at):
    config = f"{at.home}/vykar.yaml"
    said = fr"repositories:\n  - label: main\n    url: {at.store}\nsources:\n  - {at.source}\ncompression:\n  algorithm: zstd\n  zstd_level: 3\n"
    return Program("vykar", version=f"{x} --version", env={"VYKAR_CONFIG": config, "VYKAR_PASSPHRASE": "pw-vykar-123"},
                   init=f"printf '{said}' > {config} && {x} init", backup=f"{x} backup", restore=f"{x} restore latest {at.out}", check=f"{x} check --verify-data")


def kopia(x, at):
    newest = f"$({x} snapshot list --json | python3 -c 'import json,sys; print(json.load(sys.stdin)[-1][\"rootEntry\"][\"obj\"])')"
    env = {"KOPIA_PASSWORD": "pw", "KOPIA_CONFIG_PATH": f"{at.home}/kopia.config", "KOPIA_CACHE_DIRECTORY": f"{at.home}/kopia",
           "KOPIA_CHECK_FOR_UPDATES": "false", "KOPIA_LOG_DIR": f"{at.home}/log"}
    return Program("kopia", version=f"{x} --version", env=env,
                   init=f"mkdir -p {at.store} && {x} repository create filesystem --path {at.store} && {x} policy set --global --compression=zstd",
                   backup=f"{x} snapshot create {at.source}", restore=f"{x} restore {newest} {at.out}", check=f"{x} snapshot verify --verify-files-percent=100",
                   mount=f"{x} mount {newest} {at.mnt}", shown=at.mnt)


def tar_zstd(_, at):
    return Program("tar|zstd", init=f"mkdir -p {at.store}", backup=f"tar -C {at.source} -cf - . | zstd -3 -T2 -q -f -o {at.store}/a && sync",
                   restore=f"mkdir -p {at.out} && zstd -dc {at.store}/a | tar -C {at.out} -xf -")


def cp(_, at):
    return Program("cp -a", copy=f"cp -a {at.source} {at.out}")


def find(_, at):
    walk = f"find {at.source} -printf '%s %T@\\n' > /dev/null"
    return Program("find", again=walk, stat=walk)


def read(_, at):
    return Program("read", backup=f"find {at.source} -type f -print0 | xargs -0 -n 64 -P 8 cat > /dev/null")


RIVALS = {"restic": restic, "rustic": rustic, "borg": borg, "vykar": vykar, "kopia": kopia}
FLOORS = {"tar|zstd": tar_zstd, "cp -a": cp, "find": find, "read": read}


def installed():
    """The rivals that are there: name → path, from PEER_NAME or PATH."""
    have = {name: os.environ.get("PEER_" + name.upper()) or shutil.which(name) for name in RIVALS}
    return {name: os.path.abspath(x) for name, x in have.items() if x}


def program(name, path, at):
    """`path` is where the program is; a floor needs none."""
    make = plakar if name == "plakar" else RIVALS.get(name) or FLOORS[name]
    return make(quote(path) if path else None, at)
