"""Machines beside each other: network namespaces on one switch, each with an address of its own. Disks and processes they have in common."""
import os, signal, subprocess, time

RANGE = "198.18.79"


class Machines:
    def __init__(self, number):
        self.names = [f"knarr-mixed-{os.getpid()}-{at}" for at in range(number)]
        self.switch = f"knarr-mixed-{os.getpid()}-switch"
        self.running = []
        ip(f"netns add {self.switch}", f"-n {self.switch} link add br0 type bridge", f"-n {self.switch} link set br0 up")
        for at, name in enumerate(self.names):
            ip(f"netns add {name}", f"-n {self.switch} link add port{at} type veth peer name eth0 netns {name}",
               f"-n {self.switch} link set port{at} master br0 up", f"-n {name} addr add {self.ip(at)}/24 dev eth0",
               f"-n {name} link set eth0 up", f"-n {name} link set lo up")

    def ip(self, at):
        return f"{RANGE}.{at + 1}"

    def on(self, at, *command):
        """A command on a machine."""
        return ["nsenter", f"--net=/run/netns/{self.names[at]}", *map(str, command)]

    def route(self, at, to, by):
        ip(f"-n {self.names[at]} route replace {to} via {by}")

    def routes(self, at):
        return subprocess.run(["ip", "-n", self.names[at], "route"], stdout=subprocess.PIPE, text=True).stdout

    def start(self, at, log, *command, env=None):
        """A program that runs on a machine."""
        with open(log, "a") as out:
            process = subprocess.Popen(self.on(at, *command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **(env or {})}, start_new_session=True)
        self.running.append(process)
        return process

    def end(self, process, how=signal.SIGTERM, seconds=20):
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process in self.running:
            self.running.remove(process)

    def remove_programs(self):
        for process in reversed(self.running[:]):
            self.end(process)

    def remove(self):
        self.remove_programs()
        for name in [*self.names, self.switch]:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)


def ip(*lines):
    for line in lines:
        subprocess.run(["ip", *line.split()], check=True)


def until(condition, seconds):
    """What CONDITION gives in time; None: nothing."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            return None
        time.sleep(0.1)
    return value
