"""What both clusters are asked: pods of a DaemonSet on nodes of both kinds, which reach each other as a cluster's do."""
import json, subprocess
from machines import until

LABELS = {"app": "who"}


def pod(node_name=None, **spec):
    """A pod that says who it is."""
    container = {"name": "c", "image": "knarr.local/shell:v1", "imagePullPolicy": "IfNotPresent", "args": ["whoami", "8080"],
                 "readinessProbe": {"httpGet": {"port": 8080}, "periodSeconds": 1}}
    return {"metadata": {"labels": LABELS}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec}}


def everywhere():
    meta = {"metadata": {"name": "who"}}
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "apps/v1", "kind": "DaemonSet", **meta, "spec": {"selector": {"matchLabels": LABELS}, "template": pod()}},
        {"apiVersion": "v1", "kind": "Service", **meta, "spec": {"type": "NodePort", "selector": LABELS, "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]}}]})


class Asked:
    """A cluster, by its kubectl."""

    def __init__(self, kubectl, told):
        self.kubectl, self.told = kubectl, told

    def works(self, what, *words, **options):
        good, text = self.kubectl(*words, **options)
        self.told(what, good, text)
        return text

    def get(self, *words):
        good, text = self.kubectl("get", *words, "-o", "json")
        return json.loads(text) if good else None

    def comes(self, what, condition, seconds=60):
        value = until(condition, seconds)
        self.told(what, value, f"not within {seconds} s")
        return value

    def is_ready(self, node):
        conditions = ((self.get("node", node) or {}).get("status") or {}).get("conditions") or []
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def pods(self):
        """The DaemonSet's pods that are Ready: {node: (name, address)}."""
        found = {}
        for pod in (self.get("pods", "-l", "app=who") or {"items": []})["items"]:
            if pod["metadata"].get("ownerReferences", [{}])[0].get("kind") == "DaemonSet" and any(
                    c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", [])):
                found[pod["spec"]["nodeName"]] = (pod["metadata"]["name"], pod["status"]["podIP"])
        return found

    def fetch(self, pod, url):
        good, text = self.kubectl("exec", pod, "--", "/shell", "fetch", url)
        return text.strip() if good else None

    def kubelets(self, pods):
        """Each kubelet, by way of the API server."""
        for node, (pod, _) in pods.items():
            self.told(f"logs of a pod on {node}", self.kubectl("logs", pod) == (True, f"serving as {pod}\n"), self.kubectl("logs", pod)[1])
            good, text = self.kubectl("exec", "-i", pod, "--", "/shell", "cat", input="through both\n")
            self.told(f"exec with input on {node}", good and text == "through both\n", text)

    def forwards(self, machines, pods, port=18080):
        for node, (pod, _) in pods.items():
            process = machines.start(0, "forward.log", *self.command("port-forward", f"pod/{pod}", f"{port}:8080"))
            answer = until(lambda: asked(machines, 0, f"http://127.0.0.1:{port}/"), 20)
            self.told(f"port-forward to {node}", answer == pod, answer)
            machines.end(process)

    def reach(self, pods, service="http://who.default.svc.cluster.local/"):
        """Each pod reaches each, and all of them by their Service."""
        for node, (pod, _) in pods.items():
            for other, (name, address) in pods.items():
                answer = until(lambda: self.fetch(pod, f"http://{address}:8080/"), 20)
                self.told(f"a pod on {node} reaches the one on {other}", answer == name, answer)
            wanted, seen = {name for name, _ in pods.values()}, set()

            def more():
                seen.add(self.fetch(pod, service))
                return wanted <= seen
            self.told(f"a pod on {node} reaches all by the Service", until(more, 30), f"wanted {wanted}, seen {seen}")


def asked(machines, at, url):
    """What a machine's own program is answered."""
    done = subprocess.run(machines.on(at, "curl", "-s", "--max-time", "3", url), stdout=subprocess.PIPE, text=True)
    return done.stdout.strip() if done.returncode == 0 else None
