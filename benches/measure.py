"""What the scripts here share: a command's seconds, CPU and peak memory; a cold page cache; a place to work; mounts."""
import contextlib, glob, os, platform, re, shutil, signal, statistics, subprocess, sys, tempfile, time
from shlex import quote

PASSPHRASE = "correct horse battery staple 74 Kloset"
GNU_TIME = "/usr/bin/time"
ROOT = os.geteuid() == 0


def need_gnu_time():
    if not os.access(GNU_TIME, os.X_OK):
        sys.exit(f"{GNU_TIME} is needed: the package `time`")


def drop_page_cache():
    if ROOT:
        subprocess.run("sync; echo 3 > /proc/sys/vm/drop_caches", shell=True, check=True)


def clean_env(home, **more):
    """The environment of a program that knows nothing of whoever runs this."""
    mine = ("XDG_", "RESTIC_", "RUSTIC_", "BORG_", "KOPIA_", "VYKAR_", "PLAKAR_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(mine)}
    return env | {"HOME": home, "LC_ALL": "C.UTF-8", "PLAKAR_PASSPHRASE": PASSPHRASE} | more


class Place:
    """Directories to work in, one on disk and one in memory, gone at the end; whatever is mounted there is unmounted."""

    def __init__(self, parent=None):
        self.disk = os.path.realpath(tempfile.mkdtemp(prefix="plakar-bench.", dir=parent or "/var/tmp"))
        self.memory = tempfile.mkdtemp(prefix="plakar-bench.", dir="/dev/shm")
        self.out = self.memory + "/out"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        mounts = mounts_below(self.disk)
        for m in reversed(mounts):
            subprocess.run(["umount", "-l", m])
        if not mounts_below(self.disk):
            shutil.rmtree(self.disk, ignore_errors=True)
        shutil.rmtree(self.memory, ignore_errors=True)

    def clear_out(self):
        subprocess.run(["rm", "-rf", self.out], check=True)


def mounts_below(path):
    with open("/proc/mounts") as f:
        at = [re.sub(r"\\([0-7]{3})", lambda o: chr(int(o.group(1), 8)), line.split()[1]) for line in f]
    return [m for m in at if m.startswith(path + "/")]


def run(command, env, limit=None, cold=False):
    """Does it: `seconds`, `cpu` (s) and `peak` (MiB of the largest process); `over` (s) if it took longer than the limit; None if it failed."""
    if cold:
        drop_page_cache()
    with tempfile.NamedTemporaryFile("r") as used:
        begun = time.monotonic()
        child = subprocess.Popen([GNU_TIME, "-q", "-f", "%U %S %M", "-o", used.name, "bash", "-o", "pipefail", "-c", command], env=env,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            said = child.communicate(timeout=limit)[0]
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            print(f"  longer than {limit} s: {command}", file=sys.stderr)
            return {"over": limit}
        seconds = time.monotonic() - begun
        if child.returncode:
            print(f"  {command}\n  -> {child.returncode} {said.decode(errors='replace')[-600:]}", file=sys.stderr)
            return None
        user, system, peak = used.read().split()
    return {"seconds": round(seconds, 3), "cpu": round(float(user) + float(system), 2), "peak": round(int(peak) / 1024, 1)}


def must(command, env):
    if (done := run(command, env)) is None:
        sys.exit(f"failed: {command}")
    return done


def stored_bytes(path):
    """Apparent size of all that can be seen at a path."""
    return int(subprocess.run(["du", "-sb", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.split()[0])


def count_files(path):
    """How many there are below it, directories apart."""
    listed = subprocess.run(f"find {quote(path)} ! -type d -printf x | wc -c", shell=True, stdout=subprocess.PIPE, check=True)
    return int(listed.stdout)


class Mounted:
    """A program that shows something at `at` for as long as the block lasts. `peak` (MiB) is known at its end."""

    def __init__(self, command, at, env, within=120):
        self.command, self.at, self.env, self.within, self.peak = command, at, env, within, None

    def __enter__(self):
        os.makedirs(self.at, exist_ok=True)
        self.process = subprocess.Popen(["bash", "-c", "exec " + self.command], env=self.env, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begun = time.monotonic()
        while not os.path.ismount(self.at):
            if self.process.poll() is not None or time.monotonic() - begun > self.within:
                self.__exit__()
                raise OSError(f"not mounted: {self.command}")
            time.sleep(0.002)
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError, AttributeError):
            with open(f"/proc/{self.process.pid}/status") as status:
                self.peak = int(re.search(r"VmHWM:\s+(\d+)", status.read()).group(1)) / 1024
        unmount(self.at)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def find(self, below, depth=4):
        """The directory in the mount that ends in the path `below`, wherever the program puts it; of several, the one with the last name."""
        level = [self.at]
        for _ in range(depth):
            for d in level:
                if os.path.isdir(d + below):
                    return d + below
            level = [e for d in level for e in sorted(glob.glob(glob.escape(d) + "/*/"), reverse=True)]
            level = [e.rstrip("/") for e in level]
        raise OSError(f"{below} is not found in the mount: {self.command}")


def unmount(at):
    """Unmounts, waiting for whoever still has it open; lazily in the end."""
    how = ["umount"] if ROOT else ["fusermount3", "-u"]
    for _ in range(50):
        if not os.path.ismount(at) or subprocess.run(how + [at], stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(how[:1] + (["-l"] if ROOT else ["-uz"]) + [at])


def median(samples, key):
    """Of one figure of repeated samples, or None where there is none."""
    have = [s[key] for s in samples or [] if s and s.get(key) is not None]
    return statistics.median(have) if have else None


def machine():
    """What the figures depend on."""
    def first(path, pattern):
        with open(path) as f:
            found = re.search(pattern, f.read(), re.M)
        return found.group(1).strip() if found else "unknown"
    return {"processor": first("/proc/cpuinfo", r"^model name\s*:(.*)$"), "cores": os.cpu_count(),
            "memory_gib": round(int(first("/proc/meminfo", r"^MemTotal:\s+(\d+)")) / (1 << 20), 1),
            "system": platform.system() + " " + platform.release()}
