"""The original's node in knarr's cluster."""
import base64, json, os, signal, subprocess
from machines import Machines, until
from node import Node
from parts import Asked, asked, everywhere, pod

NAME, OTHER = "mixed-here", "original"
# The original's are 50 s and more: what is waited for here is what comes after it.
GRACE = "12s"


def check(out, work, knarr, told):
    data = f"{work}/here"
    os.makedirs(data)
    machines = Machines(2)
    node = Node(machines, 1, OTHER, out, f"{data}/node")
    options = ["--name", NAME, "--data-dir", f"{data}/data", "--kubeconfig", f"{data}/config"]
    try:
        up = [knarr, "up", *options, "--detach", "--advertise-address", machines.ip(0), "--pod-network", "routes", "--node-monitor-grace-period", GRACE,
              "--node-port-addresses", machines.ip(0)]
        told("knarr's cluster", subprocess.run(machines.on(0, *up), stdout=subprocess.DEVNULL, timeout=120).returncode == 0)
        run(Cluster(machines, knarr, options, f"{data}/config", told), machines, node, out, told)
    finally:
        machines.remove_programs()
        node.remove()
        subprocess.run(machines.on(0, knarr, "down", *options), stdout=subprocess.DEVNULL, timeout=120)
        machines.remove()


class Cluster(Asked):
    def __init__(self, machines, knarr, options, kubeconfig, told):
        self.machines, self.knarr, self.options = machines, knarr, options
        self.command = lambda *words: [os.environ["KUBECTL"], f"--kubeconfig={kubeconfig}", *words]
        super().__init__(self.call, told)

    def call(self, *words, input=None, timeout=120):
        done = subprocess.run(self.machines.on(0, *self.command(*words)), input=input, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
        return done.returncode == 0, done.stdout


def run(cluster, machines, node, out, told):
    first = cluster.get("nodes")["items"][0]["metadata"]["name"]
    told("the images in knarr's", subprocess.run(machines.on(0, cluster.knarr, "image", "import", *cluster.options, f"{out}/images/kubernetes.tar"), stdout=subprocess.DEVNULL).returncode == 0)
    told("containerd, and the images there", node.containerd(f"{out}/images/kubernetes.tar"))

    # It joins by a token, and all it is told is where the cluster is.
    line = subprocess.run(machines.on(0, cluster.knarr, "token", "create", *cluster.options), stdout=subprocess.PIPE, text=True).stdout.split()
    token = line[line.index("--token") + 1]
    info = json.loads(cluster.get("configmap", "cluster-info", "-n", "kube-public")["data"]["kubeconfig"])["clusters"][0]["cluster"]
    authority = base64.b64decode(info["certificate-authority-data"]).decode()
    # Beside other clusters of this host it has other ranges than the usual ones.
    known = cluster.get("configmap", "knarr-node", "-n", "kube-system")["data"]
    node.bootstrap(info["server"], authority, token, known["clusterDNS"])
    node.run_kubelet()
    cluster.comes("the original's kubelet joins, and its node is Ready", lambda: cluster.is_ready(OTHER), 90)
    requests = lambda: {c["spec"]["signerName"] for c in cluster.get("csr")["items"] if (c.get("status") or {}).get("certificate")}  # noqa: E731
    cluster.comes("both its certificates are signed", lambda: {"kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"} <= requests())
    found = cluster.get("node", OTHER)
    range, version = found["spec"].get("podCIDR"), found["status"]["nodeInfo"]["kubeletVersion"]
    told("it has a range of pods", range and found["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://"), found["status"]["nodeInfo"])
    told("it is the original's", version.startswith("v1.37"), version)
    cluster.comes("knarr leads to its pods", lambda: f"{range} via {machines.ip(1)}" in machines.routes(0))
    # The other way is its own network's: a route, as a plug-in for routes makes it.
    machines.route(1, cluster.get("node", first)["spec"]["podCIDR"], machines.ip(0))
    cluster.works("an account for kube-proxy", "create", "serviceaccount", "kube-proxy", "-n", "kube-system")
    cluster.works("its role", "create", "clusterrolebinding", "kube-proxy", "--clusterrole=system:node-proxier", "--serviceaccount=kube-system:kube-proxy")
    good, proxy = cluster.kubectl("create", "token", "kube-proxy", "-n", "kube-system")
    told("the original's kube-proxy runs", good and node.proxy(info["server"], authority, proxy.strip(), known["clusterCIDR"]), proxy)

    cluster.works("pods for each node", "apply", "-f", "-", input=everywhere())
    pods = cluster.comes("they run on both", lambda: (p := cluster.pods()) and len(p) == 2 and p, 90) or {}
    cluster.kubelets(pods)
    cluster.forwards(machines, pods)
    cluster.reach(pods)
    names = {name for name, _ in pods.values()}
    for at in (0, 1):
        for target in (0, 1):
            answer = until(lambda: asked(machines, at, f"http://{machines.ip(target)}:30080/"), 20)
            told(f"machine {at} reaches the node port of machine {target}", answer in names, answer)
    told("metrics of its kubelet", cluster.kubectl("get", "--raw", f"/api/v1/nodes/{OTHER}/proxy/stats/summary")[0])

    # Nothing of a pod is lost with its kubelet.
    before = cluster.get("pod", pods[OTHER][0])["status"]["containerStatuses"][0]["containerID"]
    node.end_kubelet()
    node.run_kubelet()
    cluster.comes("its kubelet is killed, and starts again", lambda: cluster.is_ready(OTHER) and cluster.kubectl("logs", pods[OTHER][0])[0], 60)
    told("the pod is the same", cluster.get("pod", pods[OTHER][0])["status"]["containerStatuses"][0]["containerID"] == before)

    # A drain moves what a Deployment has; an eviction what is on a node that is silent.
    stays = [{"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1} for key in ("unreachable", "not-ready")]
    moves = pod(tolerations=stays, affinity={"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "preference": {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [OTHER]}]}}]}})
    moves["metadata"]["labels"] = {"app": "moves"}
    cluster.works("a Deployment that would be there", "apply", "-f", "-", input=json.dumps({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "moves"}, "spec": {"selector": {"matchLabels": {"app": "moves"}}, "template": moves}}))

    def is_at(wanted):
        found = (cluster.get("pods", "-l", "app=moves") or {"items": []})["items"]
        return any(p["spec"].get("nodeName") == wanted and not p["metadata"].get("deletionTimestamp") and any(
            c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", [])) for p in found)
    cluster.comes("it is", lambda: is_at(OTHER))
    cluster.works("the node is drained", "drain", OTHER, "--ignore-daemonsets", "--timeout=60s")
    cluster.comes("the pod runs on knarr's", lambda: is_at(first))
    cluster.works("and back", "uncordon", OTHER)
    cluster.kubectl("delete", "pod", "-l", "app=moves", "--wait=false")
    cluster.comes("it is back", lambda: is_at(OTHER))
    node.end_kubelet()
    cluster.comes("the node dies: its pod runs on knarr's", lambda: is_at(first), 60)
    node.run_kubelet()
    cluster.comes("it comes back, and what was moved ends there", lambda: cluster.is_ready(OTHER) and len(cluster.get("pods", "-l", "app=moves")["items"]) == 1, 60)

    node.end_kubelet(signal.SIGTERM)
    cluster.works("the node is deleted", "delete", "node", OTHER)
    cluster.comes("the way to it goes", lambda: range not in machines.routes(0))
    cluster.comes("and its pods", lambda: not [p for p in cluster.get("pods", "-A")["items"] if p["spec"].get("nodeName") == OTHER], 90)
