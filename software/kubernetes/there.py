"""knarr's nodes in the original's cluster."""
import json, os, subprocess
from machines import Machines, until
from node import Node
from parts import Asked, asked, everywhere
from plane import PODS, SERVICES, TOKEN, Plane


def check(out, work, knarr, told):
    data = f"{work}/there"
    os.makedirs(data)
    machines = Machines(3)
    plane = Plane(machines, 0, out, data)
    agents = [Agent(machines, at, knarr, data, f"agent-{at}") for at in (1, 2)]
    try:
        if told("the original's control plane", plane.up()):
            run(Cluster(plane, told), machines, plane, agents, out, told)
    finally:
        for agent in agents:
            agent.reset()
        machines.remove_programs()
        machines.remove()


class Cluster(Asked):
    def __init__(self, plane, told):
        self.command = lambda *words: [os.environ["KUBECTL"], f"--kubeconfig={plane.kubeconfig}", *words]
        super().__init__(plane.kubectl, told)


class Agent:
    def __init__(self, machines, at, knarr, data, node):
        self.machines, self.at, self.knarr, self.node, self.log, self.process = machines, at, knarr, node, f"{data}/{node}.log", None
        self.options = ["--name", f"mixed-{node}", "--data-dir", f"{data}/{node}"]

    def run(self, *words):
        self.process = self.machines.start(self.at, self.log, self.knarr, "agent", "--node-name", self.node, *self.options, *words)

    def end(self):
        self.machines.end(self.process)

    def said(self):
        with open(self.log) as f:
            return f.read()

    def reset(self):
        """What `--reset` says, and whether it went well."""
        done = subprocess.run(self.machines.on(self.at, self.knarr, "agent", "--reset", *self.options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        return done.returncode == 0, done.stdout


def run(cluster, machines, plane, agents, out, told):
    first, second = agents
    joins = ["--join", plane.server, "--token", TOKEN, "--discovery-token-ca-cert-hash", plane.pin()]
    cluster.works("what kubeadm sets up for nodes", "create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": plane.for_who_joins()}))
    # As it is: what kubeadm's clusters tell their nodes is enough.
    first.run(*joins)
    cluster.comes("a node of knarr's joins, and is Ready", lambda: cluster.is_ready(first.node), 60)
    found = cluster.get("node", first.node)
    told("it has a range of pods", found["spec"].get("podCIDR"), found["spec"])
    told("it says what is left to the cluster's pods", "--print-manifest" in first.said(), first.said())
    told("the images", subprocess.run(machines.on(1, first.knarr, "image", "import", *first.options, f"{out}/images/kubernetes.tar"), stdout=subprocess.DEVNULL).returncode == 0)
    cluster.works("pods for each node", "apply", "-f", "-", input=everywhere())
    pods = cluster.comes("one runs there", lambda: (p := cluster.pods()) and len(p) == 1 and p, 60) or {}
    cluster.kubelets(pods)
    cluster.forwards(machines, pods)
    resolver = cluster.kubectl("exec", pods[first.node][0], "--", "/shell", "show", "/etc/resolv.conf")[1] if pods else ""
    told("pods ask the cluster's DNS", "10.96.0.10" in resolver, resolver)
    # Its Services are kube-proxy's, which its DaemonSet would bring.
    node = Node(machines, 1, first.node, out, f"{plane.data}/proxy")
    cluster.works("an account for kube-proxy", "create", "serviceaccount", "kube-proxy", "-n", "kube-system")
    cluster.works("its role", "create", "clusterrolebinding", "kube-proxy", "--clusterrole=system:node-proxier", "--serviceaccount=kube-system:kube-proxy")
    good, token = cluster.kubectl("create", "token", "kube-proxy", "-n", "kube-system")
    told("the original's kube-proxy runs beside it", good and node.proxy(plane.server, plane.authority(), token.strip(), PODS), token)
    service = f"http://{cluster.get('service', 'who')['spec']['clusterIP']}/"
    cluster.reach(pods, service)
    node.end_proxy()

    # Where nobody tells a node anything, its flags do.
    cluster.works("what kubeadm told its nodes goes", "delete", "configmap", "kubeadm-config", "kubelet-config", "-n", "kube-system")
    second.run(*joins)
    cluster.comes("a second node waits, and says for what", lambda: "--cluster-cidr and --service-cidr say it" in second.said())
    second.end()
    second.run("--cluster-cidr", PODS, "--service-cidr", SERVICES, "--cluster-dns", "10.96.0.10")
    cluster.comes("it is told, and Ready", lambda: cluster.is_ready(second.node), 60)
    second.end()

    # With rights of its own: its own proxy, and routes between nodes of knarr's.
    done = subprocess.run([first.knarr, "agent", "--print-manifest", "--cluster-cidr", PODS, "--service-cidr", SERVICES, "--pod-network", "routes"], stdout=subprocess.PIPE, text=True)
    cluster.works("what --print-manifest prints is applied", "apply", "-f", "-", input=done.stdout)
    before = cluster.get("pod", pods[first.node][0])["status"]["containerStatuses"][0]["containerID"]
    first.end()
    first.run()
    second.run()
    cluster.comes("both nodes", lambda: cluster.is_ready(second.node) and cluster.is_ready(first.node), 60)
    told("the second's images", subprocess.run(machines.on(2, second.knarr, "image", "import", *second.options, f"{out}/images/kubernetes.tar"), stdout=subprocess.DEVNULL).returncode == 0)
    pods = cluster.comes("pods on both", lambda: (p := cluster.pods()) and len(p) == 2 and p, 90) or {}
    told("the first node's pod has stayed", cluster.get("pod", pods[first.node][0])["status"]["containerStatuses"][0]["containerID"] == before)
    cluster.reach(pods, service)
    names = {name for name, _ in pods.values()}
    for at in (1, 2):
        answer = until(lambda: asked(machines, 0, f"http://{machines.ip(at)}:30080/"), 20)
        told(f"the control plane's machine reaches the node port of machine {at}", answer in names, answer)
    cluster.works("a node is drained", "drain", second.node, "--ignore-daemonsets", "--timeout=60s")
    for agent in agents:
        agent.end()
        good, text = agent.reset()
        told(f"{agent.node} leaves", good and f"kubectl delete node {agent.node}" in text, text)
        cluster.works("its node is deleted", "delete", "node", agent.node)
