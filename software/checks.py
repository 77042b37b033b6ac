"""What the checks of every program share: each is told by one line, `ok WHAT` or `WRONG WHAT`, which `cargo xtask software` counts.

The environment: KUBECONFIG, KUBECTL, KNARR with CLUSTER (the options that name the cluster), OUT (what `build` made), WORK (a folder that
is the check's own), PORT (the first of ten that are free).
"""
import atexit, base64, glob, json, os, signal, subprocess, sys, time, traceback

OUT, WORK, PORT = os.environ["OUT"], os.environ["WORK"], int(os.environ["PORT"])
HERE = os.path.dirname(os.path.abspath(sys.argv[0]))
NAME = os.path.basename(HERE)
SOURCE = f"{OUT}/src/{NAME}"
wrong = 0


def run(*command, input=None, timeout=120, env=None):
    """(whether it went well, what it wrote)."""
    done = subprocess.run([str(c) for c in command], input=input, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
                          env={**os.environ, **(env or {})})
    return done.returncode == 0, done.stdout


def kubectl(*arguments, input=None, timeout=120):
    return run(os.environ["KUBECTL"], *arguments, input=input, timeout=timeout)


def says(*arguments, timeout=120):
    """What kubectl tells by its output alone; None if it failed. An older one warns of streams that it has not made yet when they are opened."""
    done = subprocess.run([os.environ["KUBECTL"], *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=timeout)
    return done.stdout if done.returncode == 0 else None


def get(*arguments):
    """An object, or None. Warnings are not for it."""
    said = says("get", *arguments, "-o", "json")
    return None if said is None else json.loads(said)


def told(what, good, detail=""):
    global wrong
    if good:
        print(f"ok {what}", flush=True)
    else:
        wrong += 1
        print(f"WRONG {what}\n" + "".join(f"    {line}\n" for line in str(detail).splitlines()[-40:]), flush=True)
    return good


def works(what, *command, **options):
    """What it wrote."""
    good, text = run(*command, **options)
    told(what, good, text)
    return text


def applies(what, *arguments, **options):
    return works(what, os.environ["KUBECTL"], "apply", *arguments, **options)


def is_same(what, is_, wanted):
    return told(what, is_ == wanted, f"is     {is_!r}\nwanted {wanted!r}")


def holds(what, text, *parts):
    return told(what, all(part in text for part in parts), f"{text}\nlacks {[part for part in parts if part not in text]}")


def is_refused(what, object, *parts):
    """An object that must not be taken, with all of PARTS in what is said."""
    good, text = kubectl("create", "-f", "-", input=object if isinstance(object, str) else json.dumps(object))
    return told(what, not good and all(part in text for part in parts), f"{text}\nwanted {parts}")


def comes(what, condition, seconds=60):
    """What a program brings about by itself, and kubectl has no words to wait for. Gives what CONDITION gave."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            told(what, False, f"not within {seconds} s")
            return None
        time.sleep(0.2)
    told(what, True)
    return value


def each_applies(what, folder, pattern, refused=()):
    """Whether all files of a folder would be taken, but those that REFUSED names: {file: what is said, in part}."""
    wanted, failed = dict(refused), []
    files = sorted(glob.glob(f"{folder}/{pattern}", recursive=True))
    for path in files:
        name = os.path.relpath(path, folder)
        good, text = kubectl("apply", "--dry-run=server", "--validate=warn", "-f", path)
        expected = wanted.pop(name, None)
        if (expected is None) != good or expected and expected not in text:
            failed.append(name + ":\n" + "\n".join(line for line in text.splitlines() if not line.endswith("(server dry run)")))
    told(f"{len(files)} {what}", files and not failed and not wanted, "\n".join([*failed, *wanted]))


def wrong_objects(path):
    """Objects of a file that must be refused. Each begins with `# WHAT: part of the message; another part`."""
    for document in open(path).read().split("\n---\n"):
        head, _, body = document.strip().partition("\n")
        what, _, parts = head.removeprefix("# ").partition(": ")
        is_refused(what, body, *parts.split("; "))


def imports():
    """The images of this program, into the node."""
    works("the images are imported", os.environ["KNARR"], "image", "import", *os.environ["CLUSTER"].split(), f"{OUT}/images/{NAME}.tar")


def processes(pod, program):
    """The host's numbers of a pod's processes by the name of what they run."""
    uid, found = get("pod", *pod)["metadata"]["uid"], []
    for path in glob.glob("/proc/[0-9]*"):
        try:
            with open(f"{path}/comm") as comm, open(f"{path}/cgroup") as group:
                if comm.read().strip() == program and (uid in (text := group.read()) or uid.replace("-", "_") in text):
                    found.append(int(os.path.basename(path)))
        except OSError:  # it has ended
            continue
    return sorted(found)


def restarts(*pod):
    """How often the first container of a pod was started again."""
    return (((get("pod", *pod) or {}).get("status") or {}).get("containerStatuses") or [{}])[0].get("restartCount", 0)


def kills(pod, program):
    """SIGKILL to what runs PROGRAM in a pod. That there is something to kill is a check, too."""
    found = processes(pod, program)
    for process in found:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:  # it went with its parent
            pass
    told(f"{program} is killed in {pod[0]}", found)


def kills_knarr():
    """SIGKILL to the process that is the cluster, and its start, with the options that the task gave it; pods go on meanwhile."""
    options = os.environ["CLUSTER"].split()
    with open(f"/run/knarr/{options[options.index('--name') + 1]}/lock") as lock:
        process = int(lock.read())
    # A number that was left by a process that is gone may be anybody's.
    if not told("knarr runs", os.path.realpath(f"/proc/{process}/exe") == os.path.realpath(os.environ["KNARR"])):
        return
    os.kill(process, signal.SIGKILL)
    # The cluster keeps what it is given for its output.
    up = [os.environ["KNARR"], "up", *options, "--detach", "--port", str(PORT - 10), "--kubeconfig", os.environ["KUBECONFIG"]]
    told("knarr is killed, and starts again", subprocess.run(up, stdout=subprocess.DEVNULL, timeout=120).returncode == 0)


def tells(*command):
    """A program that tells its checks by lines of its own. `KILL` asks for knarr's death and start, and is answered by a line."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    atexit.register(process.kill)
    good = True
    for line in process.stdout:
        if line == "KILL\n":
            kills_knarr()
            process.stdin.write("\n")
            process.stdin.flush()
            continue
        print(line, end="", flush=True)
        good = good and not line.startswith("WRONG ")
    told("it ends well", process.wait() == 0 and good, process.returncode)


def certificate(names):
    """A key and a certificate of its own authority for a server on this host: (certificate, key, the certificate in base64)."""
    crt, key = f"{WORK}/server.crt", f"{WORK}/server.key"
    works("a certificate", "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=check",
          "-addext", f"subjectAltName={names}", "-keyout", key, "-out", crt)
    with open(crt, "rb") as f:
        return crt, key, base64.b64encode(f.read()).decode()


def serves(program, *arguments):
    """A program that runs on this host until the check ends."""
    log = open(f"{WORK}/{os.path.basename(program)}.log", "w")
    process = subprocess.Popen([program, *map(str, arguments)], stdout=log, stderr=log)
    atexit.register(process.kill)
    return process


def is_gone(what, *arguments):
    """Told right if the server says that it is not there; a question that fails otherwise says nothing."""
    good, text = kubectl("get", *arguments)
    return told(what, not good and "NotFound" in text, text)


def main(check):
    # What ends a check from outside (its time) must not end it before its cluster is taken down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        check()
    except Exception:  # noqa: BLE001: whatever went wrong is told as a check that failed
        told("the check runs to its end", False, traceback.format_exc())
    sys.exit(1 if wrong else 0)
