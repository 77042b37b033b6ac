"""The original's control plane on a machine, with what kubeadm sets up for those who join: cluster-info, a token, and their rights."""
import base64, hashlib, json, os, subprocess
from machines import until

SUBJECT = {"admin": "/O=system:masters/CN=admin", "kubelet-client": "/O=system:masters/CN=apiserver-kubelet", "etcd-client": "/CN=apiserver",
           "controller-manager": "/CN=system:kube-controller-manager", "scheduler": "/CN=system:kube-scheduler"}
PODS, SERVICES = "10.244.0.0/16", "10.96.0.0/16"
TOKEN = "abcdef.0123456789abcdef"
BOOTSTRAPPERS = "system:bootstrappers:kubeadm:default-node-token"


class Plane:
    def __init__(self, machines, at, out, data):
        self.machines, self.at, self.out, self.data = machines, at, out, data
        self.certs, self.ip, self.kubeconfig = f"{data}/certs", machines.ip(at), f"{data}/admin.conf"
        self.server = f"https://{self.ip}:6443"
        os.makedirs(self.certs)

    def openssl(self, *words):
        subprocess.run(["openssl", *words], cwd=self.certs, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def certificate(self, name, subject, names=""):
        self.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
        self.openssl("req", "-new", "-key", f"{name}.key", "-subj", subject, "-out", f"{name}.csr")
        with open(f"{self.certs}/{name}.ext", "w") as f:
            f.write("keyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth\n" + (f"subjectAltName={names}\n" if names else ""))
        self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30", "-extfile", f"{name}.ext", "-out", f"{name}.crt")

    def authority(self):
        with open(f"{self.certs}/ca.crt") as f:
            return f.read()

    def pin(self):
        """The hash of the authority's key, as kubeadm's discovery knows it."""
        pem = subprocess.run(["openssl", "x509", "-in", f"{self.certs}/ca.crt", "-noout", "-pubkey"], check=True, stdout=subprocess.PIPE, text=True).stdout
        return "sha256:" + hashlib.sha256(base64.b64decode("".join(pem.splitlines()[1:-1]))).hexdigest()

    def make(self):
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=kubernetes", "-keyout", "ca.key", "-out", "ca.crt",
                     "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,digitalSignature")
        own = f"DNS:localhost,IP:127.0.0.1,IP:{self.ip},IP:10.96.0.1,DNS:kubernetes,DNS:kubernetes.default.svc"
        for name, subject in SUBJECT.items():
            self.certificate(name, subject)
        for name in ("apiserver", "etcd"):
            self.certificate(name, f"/CN={name}", own)
        self.openssl("genrsa", "-out", "sa.key", "2048")
        self.openssl("rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub")
        for name, file in (("admin", self.kubeconfig), ("controller-manager", f"{self.data}/cm.conf"), ("scheduler", f"{self.data}/scheduler.conf")):
            with open(file, "w") as f:
                json.dump({"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                           "clusters": [{"name": "c", "cluster": {"server": self.server, "certificate-authority": f"{self.certs}/ca.crt"}}],
                           "users": [{"name": "u", "user": {"client-certificate": f"{self.certs}/{name}.crt", "client-key": f"{self.certs}/{name}.key"}}]}, f)

    def start(self, name, *flags):
        return self.machines.start(self.at, f"{self.data}/{name}.log", f"{self.out}/bin/{name}", *flags)

    def up(self):
        """Whether it answers."""
        self.make()
        c, etcd = self.certs, "https://127.0.0.1:2379"
        self.start("etcd", "--name=m", f"--data-dir={self.data}/etcd", f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}", "--listen-peer-urls=http://127.0.0.1:2380",
                   "--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=m=http://127.0.0.1:2380", "--client-cert-auth", f"--trusted-ca-file={c}/ca.crt",
                   f"--cert-file={c}/etcd.crt", f"--key-file={c}/etcd.key")
        self.start("kube-apiserver", f"--advertise-address={self.ip}", "--secure-port=6443", "--allow-privileged=true", "--authorization-mode=Node,RBAC", "--enable-bootstrap-token-auth",
                   "--enable-admission-plugins=NodeRestriction", f"--client-ca-file={c}/ca.crt", f"--tls-cert-file={c}/apiserver.crt", f"--tls-private-key-file={c}/apiserver.key",
                   f"--etcd-servers={etcd}", f"--etcd-cafile={c}/ca.crt", f"--etcd-certfile={c}/etcd-client.crt", f"--etcd-keyfile={c}/etcd-client.key",
                   f"--kubelet-client-certificate={c}/kubelet-client.crt", f"--kubelet-client-key={c}/kubelet-client.key", "--kubelet-preferred-address-types=InternalIP,Hostname",
                   "--service-account-issuer=https://kubernetes.default.svc.cluster.local", f"--service-account-key-file={c}/sa.pub", f"--service-account-signing-key-file={c}/sa.key",
                   f"--service-cluster-ip-range={SERVICES}")
        if not until(lambda: self.kubectl("get", "--raw", "/readyz")[0], 90):
            return False
        self.start("kube-controller-manager", f"--kubeconfig={self.data}/cm.conf", f"--cluster-signing-cert-file={c}/ca.crt", f"--cluster-signing-key-file={c}/ca.key",
                   f"--root-ca-file={c}/ca.crt", f"--service-account-private-key-file={c}/sa.key", "--use-service-account-credentials", "--allocate-node-cidrs",
                   f"--cluster-cidr={PODS}", f"--service-cluster-ip-range={SERVICES}", "--leader-elect=false",
                   "--controllers=*,bootstrap-signer-controller,token-cleaner-controller")
        self.start("kube-scheduler", f"--kubeconfig={self.data}/scheduler.conf", "--leader-elect=false")
        return True

    def kubectl(self, *words, input=None, timeout=120):
        done = subprocess.run(self.machines.on(self.at, os.environ["KUBECTL"], f"--kubeconfig={self.kubeconfig}", *words), input=input, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=timeout)
        return done.returncode == 0, done.stdout

    def for_who_joins(self):
        """What `kubeadm init phase bootstrap-token` makes, and the ConfigMaps that its `join` reads."""
        info = {"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "", "cluster": {
            "server": self.server, "certificate-authority-data": base64.b64encode(self.authority().encode()).decode()}}]}
        name, secret = TOKEN.split(".")
        rbac = "rbac.authorization.k8s.io"
        group = lambda name: {"kind": "Group", "name": name, "apiGroup": rbac}  # noqa: E731
        binds = lambda kind, name, role, subjects, **metadata: {  # noqa: E731
            "apiVersion": f"{rbac}/v1", "kind": f"{kind}Binding", "metadata": {"name": name, **metadata}, "roleRef": {"apiGroup": rbac, "kind": kind, "name": role}, "subjects": subjects}
        reads = lambda name, map, **metadata: {  # noqa: E731
            "apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": name, **metadata},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [map], "verbs": ["get"]}]}
        signers, joiners = "system:certificates.k8s.io:certificatesigningrequests", [group(BOOTSTRAPPERS), group("system:nodes")]
        public, system = {"namespace": "kube-public"}, {"namespace": "kube-system"}
        return [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info", **public}, "data": {"kubeconfig": json.dumps(info)}},
            {"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token", "metadata": {"name": f"bootstrap-token-{name}", **system}, "stringData": {
                "token-id": name, "token-secret": secret, "usage-bootstrap-signing": "true", "usage-bootstrap-authentication": "true", "auth-extra-groups": BOOTSTRAPPERS}},
            reads("kubeadm:bootstrap-signer-clusterinfo", "cluster-info", **public),
            binds("Role", "kubeadm:bootstrap-signer-clusterinfo", "kubeadm:bootstrap-signer-clusterinfo", [{"kind": "User", "name": "system:anonymous", "apiGroup": rbac}], **public),
            {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": "kubeadm:get-nodes"}, "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]},
            binds("ClusterRole", "kubeadm:get-nodes", "kubeadm:get-nodes", [group(BOOTSTRAPPERS)]),
            binds("ClusterRole", "kubeadm:kubelet-bootstrap", "system:node-bootstrapper", [group(BOOTSTRAPPERS)]),
            binds("ClusterRole", "kubeadm:node-autoapprove-bootstrap", f"{signers}:nodeclient", [group(BOOTSTRAPPERS)]),
            binds("ClusterRole", "kubeadm:node-autoapprove-certificate-rotation", f"{signers}:selfnodeclient", [group("system:nodes")]),
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kubeadm-config", **system}, "data": {"ClusterConfiguration": json.dumps(
                {"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ClusterConfiguration", "networking": {"podSubnet": PODS, "serviceSubnet": SERVICES, "dnsDomain": "cluster.local"}})}},
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kubelet-config", **system}, "data": {"kubelet": json.dumps(
                {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "clusterDNS": ["10.96.0.10"], "clusterDomain": "cluster.local"})}},
            reads("kubeadm:nodes-kubeadm-config", "kubeadm-config", **system), binds("Role", "kubeadm:nodes-kubeadm-config", "kubeadm:nodes-kubeadm-config", joiners, **system),
            reads("kubeadm:kubelet-config", "kubelet-config", **system), binds("Role", "kubeadm:kubelet-config", "kubeadm:kubelet-config", joiners, **system),
        ]
