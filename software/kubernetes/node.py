"""The original's node on a machine: containerd with runc, a bridge for its pods, kubelet and kube-proxy. It joins as kubeadm joins one: by a
bootstrap kubeconfig with a token, its certificates by requests."""
import glob, json, os, signal, subprocess
from machines import until

CONTAINERD = """version = 3
root = '{data}/containerd'
state = '{data}/run'
disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.tracing.processor.v1.otlp', 'io.containerd.internal.v1.tracing']
[grpc]
  address = '{socket}'
[ttrpc]
  address = '{socket}.ttrpc'
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = 'knarr.local/pause:v1'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['{bin}']
    conf_dir = '{data}/cni'
    conf_template = '{data}/cni.template'
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = 'runc'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = 'io.containerd.runc.v2'
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = '{host}/usr/sbin/runc'
        SystemdCgroup = false
"""
# containerd fills in the range that the control plane gives the node.
CNI = {"cniVersion": "1.0.0", "name": "check", "plugins": [{"type": "bridge", "bridge": "check0", "isGateway": True, "hairpinMode": True, "ipam": {
    "type": "host-local", "ranges": [[{"subnet": "{{.PodCIDR}}"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "DATA/ipam"}}]}
CGROUPS = "kubepods"


class Node:
    def __init__(self, machines, at, name, out, data):
        self.machines, self.at, self.name, self.out, self.data = machines, at, name, out, data
        self.host, self.socket = f"{out}/host/kubernetes", f"{data}/containerd.sock"
        # A namespace is no machine: cgroups are the host's, and the ones that were there are not ours.
        self.cgroups = [] if glob.glob(f"/sys/fs/cgroup/*/{CGROUPS}") + glob.glob(f"/sys/fs/cgroup/{CGROUPS}") else [CGROUPS]
        self.env = {"PATH": f"{out}/bin:{self.host}/usr/sbin:{os.environ['PATH']}", "LD_LIBRARY_PATH": f"{self.host}/usr/lib/x86_64-linux-gnu:{self.host}/lib/x86_64-linux-gnu"}
        for folder in ("cni", "ipam", "manifests", "volume-plugins"):
            os.makedirs(f"{data}/{folder}", exist_ok=True)
        self.kubelet = None

    def write(self, name, text):
        with open(f"{self.data}/{name}", "w") as f:
            f.write(text if isinstance(text, str) else json.dumps(text))
        return f"{self.data}/{name}"

    def start(self, name, *command):
        return self.machines.start(self.at, f"{self.data}/{name}.log", *command, env=self.env)

    def containerd(self, images):
        self.write("cni.template", json.dumps(CNI).replace("DATA", self.data))
        config = self.write("containerd.toml", CONTAINERD.format(data=self.data, socket=self.socket, bin=f"{self.out}/bin", host=self.host))
        subprocess.run(self.machines.on(self.at, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"), check=True)
        self.start("containerd", f"{self.out}/bin/containerd", "-c", config)
        if not until(lambda: self.ctr("version")[0], 30):
            return False
        return self.ctr("-n", "k8s.io", "images", "import", "--platform", "linux/amd64", "--local", images)[0]

    def ctr(self, *words):
        done = subprocess.run([f"{self.out}/bin/ctr", "-a", self.socket, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        return done.returncode == 0, done.stdout

    def bootstrap(self, server, authority, token, dns):
        """What kubeadm writes before it starts a kubelet for the first time."""
        self.write("ca.crt", authority)
        self.write("bootstrap.conf", {
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": f"{self.data}/ca.crt"}}],
            "users": [{"name": "u", "user": {"token": token}}]})
        self.write("kubelet.yaml", {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": f"{self.data}/ca.crt"}},
            "authorization": {"mode": "Webhook"}, "rotateCertificates": True, "serverTLSBootstrap": True, "cgroupDriver": "cgroupfs", "failCgroupV1": False,
            "failSwapOn": False, "clusterDomain": "cluster.local", "clusterDNS": [dns], "containerRuntimeEndpoint": f"unix://{self.socket}",
            "staticPodPath": f"{self.data}/manifests", "volumePluginDir": f"{self.data}/volume-plugins", "resolvConf": self.write("resolv.conf", "nameserver 192.0.2.53\n"),
            "nodeStatusUpdateFrequency": "1s", "nodeLeaseDurationSeconds": 4, "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"}})

    def run_kubelet(self):
        self.kubelet = self.start("kubelet", f"{self.out}/bin/kubelet", f"--config={self.data}/kubelet.yaml", f"--bootstrap-kubeconfig={self.data}/bootstrap.conf",
                                  f"--kubeconfig={self.data}/kubelet.conf", f"--cert-dir={self.data}/pki", f"--root-dir={self.data}/kubelet",
                                  f"--hostname-override={self.name}", f"--node-ip={self.machines.ip(self.at)}")

    def end_kubelet(self, how=signal.SIGKILL):
        self.machines.end(self.kubelet, how)

    def proxy(self, server, authority, token, pods):
        """kube-proxy with an account's token, as its DaemonSet has one."""
        self.write("ca.crt", authority)
        kubeconfig = self.write("proxy.conf", {
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": f"{self.data}/ca.crt"}}], "users": [{"name": "u", "user": {"token": token}}]})
        config = self.write("proxy.yaml", {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables", "clusterCIDR": pods, "hostnameOverride": self.name,
            "clientConnection": {"kubeconfig": kubeconfig}, "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}})
        self.proxy_process = self.start("proxy", f"{self.out}/bin/kube-proxy", f"--config={config}")
        return until(lambda: subprocess.run(self.machines.on(self.at, "curl", "-sf", "http://127.0.0.1:10256/healthz"), stdout=subprocess.DEVNULL).returncode == 0, 60)

    def end_proxy(self):
        """With its rules, which it leaves where they are."""
        self.machines.end(self.proxy_process)
        command = self.machines.on(self.at, f"{self.out}/bin/kube-proxy", f"--config={self.data}/proxy.yaml", "--cleanup")
        subprocess.run(command, env={**os.environ, **self.env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)

    def remove(self):
        """What containerd and kubelet leave when they end: shims with their containers, mounts, cgroups."""
        for pid in shims(self.socket):
            children = open(f"/proc/{pid}/task/{pid}/children").read().split() if os.path.exists(f"/proc/{pid}/task") else []
            for process in [*children, pid]:
                try:
                    os.kill(int(process), signal.SIGKILL)
                except ProcessLookupError:
                    pass
        until(lambda: not shims(self.socket), 10)
        with open("/proc/self/mounts") as f:
            mounts = [line.split()[1] for line in f if line.split()[1].startswith(f"{self.data}/")]
        for mount in reversed(mounts):
            subprocess.run(["umount", "-l", mount], stderr=subprocess.DEVNULL)
        for name in self.cgroups:
            for root in glob.glob(f"/sys/fs/cgroup/*/{name}") + glob.glob(f"/sys/fs/cgroup/{name}"):
                for folder, _, _ in os.walk(root, topdown=False):
                    try:
                        os.rmdir(folder)
                    except OSError:
                        pass


def shims(socket):
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as f:
                words = f.read().decode(errors="replace").split("\0")
        except OSError:
            continue
        if os.path.basename(words[0]) == "containerd-shim-runc-v2" and any(socket in word for word in words):
            found.append(path.split("/")[2])
    return found
