#!/usr/bin/env python3
"""doors.py [--kvm] HOST DIST [DOOR…]: tests every door of the product on this host, and prints a table of the results.

A door is a program that starts pods: containerd's ctr and CRI, Docker, `run`, `rust-kata`. Runs inside one of the hosts'
root file systems (see `enter`), with that distribution's containerd, Docker and QEMU, and with DIST built there. Checks
for each door a container's output and exit code, a process on a terminal, a bind mount, a volume, kill -9 of the virtual
machine, and that nothing is left. `check` compares the output of `rust-kata check` with the files and the hypervisor
that a pod then uses. The table shows the programs that ran the virtual machines. With --kvm this must be rust-kata-vmm
on KVM: QEMU is hidden, and the configuration is the default one.
"""

import ctypes
import fcntl
import hashlib
import io
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import termios
import time
import traceback

IMAGE = "localhost/busybox:1"
RUNTIME = "io.containerd.rust-kata.v2"
SHIM = "containerd-shim-rust-kata-v2"
QEMU, VMM = "qemu-system-x86_64", "rust-kata-vmm"
CHECKS = ["output", "terminal", "bind", "volume", "kill", "left"]
# Virtual machines are emulated here, and the machine may have other load.
LIMIT = 60 * float(os.environ.get("RUST_KATA_TEST_PATIENCE", "2"))
WORK = pathlib.Path("/tmp/doors")
DIST = pathlib.Path()
KVM = False
# The programs that ran virtual machines at the present door.
MET = set()

SPEAKS = "echo out; echo err >&2; exit 7"
# Waits for the terminal's size, which the client sends after the start.
ON_TERMINAL = "tty; until [ \"$(stty size)\" = '33 99' ]; do sleep 0.1; done; stty size; read x; echo got $x; exit 5"
READS = "cat /mnt/f; { echo in > /mnt/f; } 2> /dev/null || echo refused"


class Failed(Exception):
    """A check that failed, with the expected and the actual value."""


def expect(what, found, wanted):
    if found != wanted:
        raise Failed(f"{what}: {found!r} instead of {wanted!r}")


class Ended:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


def run(*argv, code=0, **options):
    """Runs a command to its end; any exit code but `code` (None: any) is a failure."""
    try:
        done = subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=LIMIT, text=True, errors="replace", **options)
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{argv} took more than {LIMIT:.0f} s: {late.stdout!r} {late.stderr!r}") from None
    if code is not None and done.returncode != code:
        raise Failed(f"{argv}: exit code {done.returncode} instead of {code}: {done.stdout!r} {done.stderr!r}")
    return Ended(done.returncode, done.stdout, done.stderr)


def until(what, condition):
    """Waits until the condition holds. A condition may raise Failed with the reason why it does not hold."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            found = condition()
            if found:
                return found
            reason = Failed(f"{what} did not come about within {LIMIT:.0f} s")
        except Failed as failed:
            reason = failed
        if time.monotonic() > deadline:
            raise reason
        time.sleep(0.1)


def on_terminal(*argv):
    """Runs a command on a terminal of 33 lines and 99 columns, types `hello`, and checks what ON_TERMINAL says."""
    pid, master = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
        os.execvp(argv[0], [str(word) for word in argv])
    said, typed = b"", False
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        if not select.select([master], [], [], 1)[0]:
            continue
        try:
            piece = os.read(master, 4096)
        except OSError:
            piece = b""
        if not piece:
            break
        said += piece
        if b"33 99" in said and not typed:
            os.write(master, b"hello\n")
            typed = True
    else:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(master)
    for text in (b"/dev/", b"33 99", b"got hello"):
        if text not in said:
            raise Failed(f"{argv}: no {text!r} on the terminal: {said!r}")
    return code


def processes(*names):
    """The pids of the processes whose executable has one of these names."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            name = os.path.basename(os.readlink(folder / "exe"))
        except OSError:
            continue
        if name in names:
            found.append(int(folder.name))
    return found


def machines():
    """The processes that run virtual machines, each with its name and whether that is by KVM."""
    found = {}
    for pid in processes(QEMU, VMM):
        try:
            name = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
            kvm = any(os.readlink(link) == "anon_inode:kvm-vm" for link in pathlib.Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            continue
        # Beside QEMU, rust-kata-vmm only serves devices.
        if kvm or name == QEMU:
            found[pid] = f"{name}, {'KVM' if kvm else 'TCG'}"
    return found


def machine():
    """The pid of the only virtual machine that runs, and its program."""
    def one():
        found = machines()
        if len(found) != 1:
            raise Failed(f"one virtual machine was expected, these run: {found}")
        return found
    pid, what = until("a virtual machine", one).popitem()
    MET.add(what)
    if KVM:
        expect("the virtual machine", what, f"{VMM}, KVM")
    return pid, what


def kill_machine():
    os.kill(machine()[0], signal.SIGKILL)


def folder(name, text="from the host\n"):
    path = WORK / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    if text is not None:
        (path / "f").write_text(text)
    return path


# The image

def rootfs(path):
    """A root file system of busybox."""
    for name in ("bin", "dev", "etc", "mnt", "proc", "root", "sys", "tmp"):
        (path / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", path / "bin/busybox")
    for applet in run("/bin/busybox", "--list").out.split():
        if applet != "busybox":
            (path / "bin" / applet).symlink_to("busybox")
    (path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\n")
    return path


def archive(root, path):
    """The OCI archive of IMAGE. Without a command it sleeps, so that it works as a pod's sandbox, too."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(root, arcname=".")
    blobs = {}

    def blob(data, **more):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data), **more}

    layer = blob(layer.getvalue(), mediaType="application/vnd.oci.image.layer.v1.tar")
    config = blob({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
                   "config": {"Env": ["PATH=/bin"], "Cmd": ["sleep", "1000000"]}},
                  mediaType="application/vnd.oci.image.config.v1+json")
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = blob({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]}, mediaType=kind,
                    annotations={"io.containerd.image.name": IMAGE, "org.opencontainers.image.ref.name": "1"})
    blobs["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode()
    with tarfile.open(path, "w") as tar:
        for name, data in blobs.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


# The daemons

def daemon(name, argv, ready):
    log = open(WORK / f"{name}.log", "wb")
    process = subprocess.Popen([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def is_ready():
        if process.poll() is not None:
            raise SystemExit(f"{name} ended:\n" + (WORK / f"{name}.log").read_text(errors="replace")[-4000:])
        return run(*ready, code=None).code == 0
    until(name, is_ready)


def containerd_config(version):
    """The shortest configuration with rust-kata in the CRI, for containerd 1 and 2."""
    disabled = [f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")]
    bin_dir = 'bin_dirs = ["/usr/lib/cni"]' if version >= (2, 1) else 'bin_dir = "/usr/lib/cni"'
    cni = f'{bin_dir}\nconf_dir = "/etc/cni/net.d"\n'
    if version < (2,):
        cri, sandbox = 'plugins."io.containerd.grpc.v1.cri"', f'sandbox_image = "{IMAGE}"\n'
        first = f"[{cri}]\n{sandbox}restrict_oom_score_adj = true\n"
    else:
        cri = 'plugins."io.containerd.cri.v1.runtime"'
        first = f'[plugins."io.containerd.cri.v1.images".pinned_images]\nsandbox = "{IMAGE}"\n' \
                f"[{cri}]\nrestrict_oom_score_adj = true\n"
    return (f"version = {2 if version < (2,) else 3}\ndisabled_plugins = {json.dumps(disabled)}\n{first}[{cri}.cni]\n{cni}"
            f'[{cri}.containerd]\ndefault_runtime_name = "rust-kata"\n'
            f'[{cri}.containerd.runtimes.rust-kata]\nruntime_type = "{RUNTIME}"\n')


def start_containerd(version, image):
    cni = pathlib.Path("/etc/cni/net.d")
    cni.mkdir(parents=True, exist_ok=True)
    # The CRI needs an address for each pod.
    pair = {"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.88.0.0/16"}}
    network = {"cniVersion": "0.4.0", "name": "pods", "plugins": [pair]}
    (cni / "10-pods.conflist").write_text(json.dumps(network))
    config = WORK / "containerd.toml"
    config.write_text(containerd_config(version))
    daemon("containerd", ["containerd", "--config", config], ["ctr", "version"])
    for namespace in ("default", "k8s.io"):
        run("ctr", "-n", namespace, "images", "import", image)


# The doors. Each method makes one check, and cleans up after it.

class Ctr:
    """containerd's own client."""
    name = "containerd (ctr)"

    def run(self, name, *argv, options=(), code=0):
        return run("ctr", "run", "--rm", "--runtime", RUNTIME, *options, IMAGE, name, "sh", "-c", *argv, code=code)

    def output(self):
        ended = self.run("c-output", SPEAKS, code=7)
        expect("output", (ended.out, ended.err), ("out\n", "err\n"))

    def terminal(self):
        run("ctr", "run", "-d", "--runtime", RUNTIME, IMAGE, "c-terminal", "sleep", "1000")
        expect("exit code", on_terminal("ctr", "task", "exec", "-t", "--exec-id", "e", "c-terminal", "sh", "-c", ON_TERMINAL), 5)
        run("ctr", "task", "kill", "-s", "KILL", "c-terminal")
        until("the end", lambda: "STOPPED" in run("ctr", "task", "ls").out)
        run("ctr", "task", "rm", "c-terminal", code=None)
        run("ctr", "container", "rm", "c-terminal")

    def mount(self, path, how):
        return ["--mount", f"type=bind,src={path},dst=/mnt,options=rbind:{how}"]

    def bind(self):
        path = folder("bind")
        expect("output", self.run("c-bind", READS, options=self.mount(path, "ro")).out, "from the host\nrefused\n")
        expect("the file", (path / "f").read_text(), "from the host\n")

    def volume(self):
        path = folder("volume")
        self.run("c-volume", "cat /mnt/f; echo in > /mnt/f", options=self.mount(path, "rw"))
        expect("the file", (path / "f").read_text(), "in\n")
        expect("output", self.run("c-volume", "cat /mnt/f", options=self.mount(path, "rw")).out, "in\n")

    def kill(self):
        command = ["ctr", "run", "--rm", "--runtime", RUNTIME, IMAGE, "c-kill", "sh", "-c", "echo up; sleep 1000"]
        expect("exit code", killed(command), 137)


def killed(command):
    """Starts a command that says `up`, kills its virtual machine, and returns its exit code."""
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        expect("first line", process.stdout.readline(), "up\n")
        kill_machine()
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        raise Failed("the command does not end with its virtual machine") from None
    finally:
        process.kill()


class Cri:
    """containerd's CRI, as the kubelet speaks it. The client is cri.py."""
    name = "containerd (CRI)"

    def __init__(self):
        import cri
        self.client = cri.Client("/run/containerd/containerd.sock", LIMIT)

    def pod(self):
        return self.client.pod(IMAGE, "rust-kata", WORK / "pods")

    def output(self):
        with self.pod() as pod:
            container = pod.start("speaks", SPEAKS)
            expect("exit code", container.wait(), 7)
            said = [line.split(" ", 3)[1::2] for line in container.log().splitlines()]
            expect("log", sorted(said), [["stderr", "err"], ["stdout", "out"]])

    def terminal(self):
        with self.pod() as pod:
            container = pod.start("sleeps", "sleep 1000")
            said, code = container.exec_terminal(["sh", "-c", ON_TERMINAL], 33, 99, "hello\n")
            for text in ("/dev/", "33 99", "got hello"):
                if text not in said:
                    raise Failed(f"no {text!r} on the terminal: {said!r}")
            expect("exit code", code, 5)

    def bind(self):
        path = folder("bind")
        with self.pod() as pod:
            container = pod.start("binds", READS, mounts=[(path, "/mnt", True)])
            expect("exit code", container.wait(), 0)
            said = [line.split(" ", 3)[3] for line in container.log().splitlines()]
            expect("log", said, ["from the host", "refused"])
        expect("the file", (path / "f").read_text(), "from the host\n")

    def volume(self):
        """One volume in two containers of a pod, as an emptyDir is."""
        path = folder("volume")
        with self.pod() as pod:
            reader = pod.start("reads", "sleep 1000", mounts=[(path, "/mnt", False)])
            expect("exit code", pod.start("writes", "echo in > /mnt/f", mounts=[(path, "/mnt", False)]).wait(), 0)
            expect("the other's", reader.exec(["cat", "/mnt/f"]), (0, "in\n"))
            expect("the file", (path / "f").read_text(), "in\n")

    def kill(self):
        with self.pod() as pod:
            container = pod.start("sleeps", "sleep 1000")
            kill_machine()
            expect("exit code", container.wait(), 137)


class Docker:
    """Docker, without a network: its networks are not supported yet."""
    name = "Docker"

    def __init__(self):
        run("sh", "-c", f"tar -C {WORK}/rootfs -c . | docker import -c 'ENV PATH=/bin' - {IMAGE}")

    def command(self, *options):
        return ["docker", "run", "--network", "none", "--runtime", RUNTIME, *options]

    def run(self, argv, *options, code=0):
        return run(*self.command("--rm", *options), IMAGE, "sh", "-c", argv, code=code)

    def output(self):
        ended = self.run(SPEAKS, code=7)
        expect("output", (ended.out, ended.err), ("out\n", "err\n"))

    def terminal(self):
        run(*self.command("-d", "--name", "d-terminal"), IMAGE, "sleep", "1000")
        expect("exit code", on_terminal("docker", "exec", "-it", "d-terminal", "sh", "-c", ON_TERMINAL), 5)
        run("docker", "rm", "-f", "d-terminal")

    def bind(self):
        path = folder("bind")
        expect("output", self.run(READS, "-v", f"{path}:/mnt:ro").out, "from the host\nrefused\n")
        expect("the file", (path / "f").read_text(), "from the host\n")

    def volume(self):
        run("docker", "volume", "create", "d-volume")
        self.run("echo in > /mnt/f", "-v", "d-volume:/mnt")
        expect("output", self.run("cat /mnt/f", "-v", "d-volume:/mnt").out, "in\n")
        run("docker", "volume", "rm", "d-volume")

    def kill(self):
        run(*self.command("-d", "--name", "d-kill"), IMAGE, "sleep", "1000")
        kill_machine()
        expect("exit code", run("docker", "wait", "d-kill").out, "137\n")
        run("docker", "rm", "d-kill")


class Run:
    """`containerd-shim-rust-kata-v2 run`: a bundle without a daemon."""
    name = "run"

    def command(self, script, mounts=(), terminal=False):
        bundle = folder("bundle", None)
        run("runc", "spec", cwd=bundle)
        config = json.loads((bundle / "config.json").read_text())
        config["root"] = {"path": str(WORK / "rootfs")}
        config["process"].update(terminal=terminal, args=["sh", "-c", script])
        config["process"]["env"] = ["PATH=/bin", "TERM=xterm"]
        for source, how in mounts:
            config["mounts"].append({"type": "bind", "source": str(source), "destination": "/mnt", "options": ["rbind", how]})
        (bundle / "config.json").write_text(json.dumps(config))
        return [DIST / "bin" / SHIM, "run", "--bundle", bundle]

    def output(self):
        ended = run(*self.command(SPEAKS), code=7)
        expect("output", (ended.out, ended.err), ("out\n", "err\n"))

    def terminal(self):
        """Tests the container's own process, since `run` has no exec."""
        expect("exit code", on_terminal(*self.command(ON_TERMINAL, terminal=True)), 5)

    def bind(self):
        path = folder("bind")
        expect("output", run(*self.command(READS, [(path, "ro")])).out, "from the host\nrefused\n")
        expect("the file", (path / "f").read_text(), "from the host\n")

    def volume(self):
        path = folder("volume")
        run(*self.command("echo in > /mnt/f", [(path, "rw")]))
        expect("output", run(*self.command("cat /mnt/f", [(path, "rw")])).out, "in\n")

    def kill(self):
        expect("exit code", killed(self.command("echo up; sleep 1000")), 137)


class RustKata:
    """The operator's command."""
    name = "rust-kata"

    def __init__(self):
        self.cli = DIST / "bin/rust-kata"
        run(self.cli, "image", "load", WORK / "image.tar", "-t", IMAGE)

    def command(self, *options):
        return [self.cli, "run", "--image", IMAGE, *options]

    def run(self, script, *options, code=0):
        return run(*self.command("--rm", *options), "--", "sh", "-c", script, code=code)

    def output(self):
        ended = self.run(SPEAKS, code=7)
        expect("output", (ended.out, ended.err), ("out\n", "err\n"))

    def terminal(self):
        run(*self.command("-d", "--name", "k-terminal"), "--", "sleep", "1000")
        expect("exit code", on_terminal(self.cli, "exec", "-it", "k-terminal", "--", "sh", "-c", ON_TERMINAL), 5)
        self.remove("k-terminal")

    def remove(self, name):
        run(self.cli, "rm", "--force", name)
        # Later versions remove the pod with it.
        run(self.cli, "pod", "rm", "--force", name, code=None)

    def bind(self):
        path = folder("bind")
        expect("output", self.run(READS, "-v", f"{path}:/mnt:ro").out, "from the host\nrefused\n")
        expect("the file", (path / "f").read_text(), "from the host\n")

    def volume(self):
        run(self.cli, "volume", "create", "k-volume")
        self.run("echo in > /mnt/f", "-v", "k-volume:/mnt")
        expect("output", self.run("cat /mnt/f", "-v", "k-volume:/mnt").out, "in\n")
        run(self.cli, "volume", "rm", "k-volume")

    def kill(self):
        run(*self.command("-d", "--name", "k-kill"), "--", "sleep", "1000")
        kill_machine()
        expect("exit code", run(self.cli, "wait", "k-kill").out.strip(), "137")
        self.remove("k-kill")


# Nothing left

def mounts():
    with open("/proc/self/mountinfo") as table:
        return sorted(" ".join(line.split()[3:6]) for line in table)


def traces():
    """Everything that pods use: processes, mounts, sockets, state, cgroups."""
    found = {f"process {pid} {os.readlink(f'/proc/{pid}/exe')}"
             for pid in processes(QEMU, VMM, "rust-kata", SHIM)}
    found |= {f"mount {line}" for line in mounts()}
    for pattern in ("run/containerd/s/*", "run/rust-kata/*/*", "run/rust-kata/.vm/*", "var/lib/rust-kata/pods/*/*",
                    "sys/fs/cgroup/*/default/*", "sys/fs/cgroup/*/docker/*", "sys/fs/cgroup/*/doors/*",
                    "sys/fs/cgroup/*/rust-kata/*",
                    # cgroup v2
                    "sys/fs/cgroup/default/*", "sys/fs/cgroup/docker/*", "sys/fs/cgroup/doors/*", "sys/fs/cgroup/rust-kata/*"):
        found |= {f"path {path}" for path in pathlib.Path("/").glob(pattern) if path.name != "cgroup.procs"
                  and (path.is_dir() or "cgroup" not in pattern)}
    return found


def left(before):
    def nothing():
        now = traces()
        if now != before:
            raise Failed("; ".join(sorted([f"left: {one}" for one in now - before] + [f"gone: {one}" for one in before - now])))
        return True
    until("nothing left", nothing)


# What `rust-kata check` says

class Opened:
    """Records which of some files are opened (inotify(7))."""
    IN_OPEN = 0x20

    def __init__(self, *paths):
        libc = ctypes.CDLL(None, use_errno=True)
        self.queue = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.paths = {libc.inotify_add_watch(self.queue, os.fsencode(path), self.IN_OPEN): path for path in paths}
        if self.queue < 0 or -1 in self.paths:
            raise OSError(ctypes.get_errno(), f"inotify on {paths}")

    def paths_until_now(self):
        try:
            events = os.read(self.queue, 1 << 16)
        except BlockingIOError:
            events = b""
        # The event of a watched file itself has no name.
        return sorted({self.paths[watch] for watch, _, _, _ in struct.iter_unpack("iIII", events)})


def check():
    """Checks that a pod uses what each `ok` line names."""
    said = {one["name"]: one for one in json.loads(run(DIST / "bin/rust-kata", "check", "--format", "json").out)}
    bad = [one for one in said.values() if one["verdict"] == "missing"]
    expect("missing", bad, [])
    files = [said["guest kernel"]["found"], said["guest initrd"]["found"]]
    command = Run().command("uname -r; sleep 1000")
    opened = Opened(*files)
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        release = process.stdout.readline().strip()
        pid, what = machine()
        expect("files opened for the guest", opened.paths_until_now(), sorted(files))
        hypervisor = {f"{VMM}, KVM": "rust-kata-vmm on KVM:", f"{QEMU}, KVM": "QEMU with KVM:", f"{QEMU}, TCG": "QEMU with TCG "}
        if not said["hypervisor"]["found"].startswith(hypervisor[what]):
            raise Failed(f"{said['hypervisor']['found']}: but {what} runs")
        expect("rust-kata-vmm", [os.path.realpath(f"/proc/{pid}/exe") for pid in processes(VMM)],
               [os.path.realpath(said["rust-kata-vmm"]["found"])])
        if release.encode() not in pathlib.Path(files[0]).read_bytes():
            raise Failed(f"the guest's kernel {release} is not {files[0]}")
        if "QEMU" in said:
            check_qemu(said, pid)
    finally:
        process.terminate()
        process.wait(LIMIT)


def check_qemu(said, pid):
    """Checks that the process runs the QEMU that the line names."""
    words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    option = {name: value for name, value in zip(words, words[1:]) if name.startswith("-")}
    path, version = said["QEMU"]["found"].rsplit(" ", 1)
    expect("QEMU", os.path.realpath(f"/proc/{pid}/exe"), os.path.realpath(path))
    expect("QEMU's version", re.search(r"version (\S+)", run(path, "--version").out).group(1), version)
    expect("firmware", os.path.basename(said["QEMU's firmware"]["found"]), option["-bios"])
    expect("kernel", option["-kernel"], said["guest kernel"]["found"])
    expect("initrd", option["-initrd"], said["guest initrd"]["found"])


# The table

def attempt(table, row, column, work):
    began = time.monotonic()
    try:
        work()
        table[row, column] = "ok"
    except Exception as failure:
        table[row, column] = "FAILED"
        if not isinstance(failure, (Failed, OSError, subprocess.SubprocessError)):
            traceback.print_exc()
        print(f"  {row}, {column}: {type(failure).__name__}: {failure}", flush=True)
    print(f"  {row}, {column}: {table[row, column]} ({time.monotonic() - began:.0f} s)", flush=True)


def version_of(package):
    text = run("dpkg-query", "-W", "-f", "${Version}", package, code=None).out
    return text or "none"


def main():
    global DIST, KVM
    words = sys.argv[1:]
    if words[0] == "--kvm":
        KVM = True
        del words[0]
    host, DIST = words[0], pathlib.Path(words[1]).resolve()
    os.environ["PATH"] = f"{DIST}/bin:{os.environ['PATH']}"
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    versions = {name: version_of(name) for name in ("libc6", "containerd", "runc", "docker.io", "qemu-system-x86")}
    numbers = {name: tuple(int(n) for n in re.findall(r"\d+", re.sub(r"^\d+:", "", text))[:2])
               for name, text in versions.items()}
    floors = {"debian12": {}, "debian13": {"qemu-system-x86": (10, 0)},
              "sid": {"qemu-system-x86": (10, 0), "containerd": (2, 1)}}[host]
    for name, floor in floors.items():
        if numbers[name] < floor:
            raise SystemExit(f"{host} has {name} {versions[name]}, at least {floor} is to be tested")
    if KVM:
        # This makes sure that QEMU does not boot a virtual machine, even in a check that does not look at it.
        run("mount", "--bind", "/dev/null", os.path.realpath(shutil.which(QEMU)))
        expect("QEMU, taken away", shutil.which(QEMU), None)
    image = archive(rootfs(WORK / "rootfs"), WORK / "image.tar")
    start_containerd(numbers["containerd"], image)
    doors = [Ctr, Cri, Run, RustKata]
    if host != "debian12":
        daemon("dockerd", ["dockerd", "--bridge", "none", "--iptables=false", "--ip6tables=false",
                           "--containerd", "/run/containerd/containerd.sock"], ["docker", "version"])
        doors.insert(2, Docker)
    wanted = words[2:]
    if unknown := set(wanted) - {door.name for door in doors}:
        raise SystemExit(f"{host} has no door {', '.join(unknown)}; there are: {', '.join(door.name for door in doors)}")
    doors = [door for door in doors if not wanted or door.name in wanted]

    table = {}
    for door in doors:
        MET.clear()
        try:
            open_door = door()
        except Exception as failure:
            traceback.print_exc()
            for column in CHECKS:
                table[door.name, column] = "FAILED"
            print(f"  {door.name}: {failure}", flush=True)
            continue
        before = traces()
        for column in CHECKS[:-1]:
            attempt(table, door.name, column, getattr(open_door, column))
        attempt(table, door.name, "left", lambda before=before: left(before))
        table[door.name, "virtual machines"] = "; ".join(sorted(MET))
    before = traces()
    MET.clear()
    attempt(table, "rust-kata check", "output", check)
    attempt(table, "rust-kata check", "left", lambda: left(before))
    table["rust-kata check", "virtual machines"] = "; ".join(sorted(MET))

    print(f"\n{host}: " + ", ".join(f"{name} {text}" for name, text in versions.items()))
    columns = ["virtual machines", *CHECKS]
    print("| host | door | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 2) + "|")
    for row in dict.fromkeys(row for row, _ in table):
        print(f"| {host} | {row} | " + " | ".join(table.get((row, column), "") for column in columns) + " |")
    failed = "FAILED" in table.values()
    if failed:
        for name in ("containerd", "dockerd"):
            log = WORK / f"{name}.log"
            if log.exists():
                lines = [line for line in log.read_text(errors="replace").splitlines() if "level=info" not in line]
                print(f"{name} said:", *lines[-20:], sep="\n  ")
    sys.exit(failed)


if __name__ == "__main__":
    main()
